"""The kind of a task's targets: p(y | params) and everything else that depends on what y is.

P natural parameters per query point become log p(y|x), in float32 even under autocast. The loss L_i of a task is the
negative log likelihood of its query examples. One reduction is used everywhere: `task_mean` over a task's valid
examples, then the mean over tasks.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from metabox.config import Configured
from metabox.ranges import Count

if TYPE_CHECKING:
    from metabox.targets.parts import Part


def task_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of each task's valid examples: values `[T, M]`, mask `[T, M]` -> `[T]`, 0 for a task without any."""
    # torch.where instead of a product: values in the padding may be infinite
    return torch.where(mask, values, 0.0).sum(1) / mask.sum(1).clamp(min=1)


def log_weights(params: Tensor, weights: Tensor | None) -> Tensor | float:
    """log w of a mixture's S predictions `[T, S, ...]`, to be added to those of one number each."""
    if weights is None:
        return -math.log(params.shape[1])
    return weights.float().log().view(*weights.shape, *[1] * (params.ndim - 2))


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean over S predictions: `[T, S, ...]` -> `[T, ...]`."""
    if weights is None:
        return values.mean(1)
    return (values * weights.to(values.dtype).view(*weights.shape, *[1] * (values.ndim - 2))).sum(1)


def score_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of each task's scores, ignoring NaN: `[T, M]` -> `[T]`, NaN for a task without any."""
    there = mask & ~values.isnan()
    return task_mean(values, there).masked_fill(~there.any(1), math.nan)


class Target(Configured, ABC):
    """What y is, and p(y | params). Each kind is one file, and no learner asks which kind it has.

    Two targets are equal if they were made with the same arguments.

    Args:
        size: number of classes, reals or labels.

    Raises:
        ValueError: for a size below 1.
    """

    word: ClassVar[str]
    """The plural noun for this kind in messages."""
    parts: tuple[Part, ...] = ()
    """Named parts, for `Parts` only."""
    statistics: nn.Module | None = None
    """Statistics of the training tasks, as buffers, which a learner saves with its weights; see `fit`."""

    def __init__(self, size: Count) -> None:
        self.size = size

    @property
    def n_classes(self) -> int | None:
        """C if labels are classes, for which each task has a label set; else None."""
        return None

    @property
    @abstractmethod
    def n_params(self) -> int:
        """P, the natural parameters that a learner predicts per query point."""

    @property
    def label_size(self) -> int:
        """Numbers in one encoded label; see `encode`."""
        return self.size

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one label in y: `()` for classes, `(size,)` for vectors."""

    @property
    @abstractmethod
    def single(self) -> Target:
        """The target of a single number of a label, as a part predicts it (see `Parts`)."""

    @abstractmethod
    def wrong(self, y: Tensor) -> Tensor:
        """Which numbers in y are invalid for a label: bool, of the shape of y, which has no NaN."""

    @property
    @abstractmethod
    def values(self) -> str:
        """The valid numbers of a label, in words."""

    @abstractmethod
    def check(self, y: Tensor, mask: Tensor, *, values: bool = True) -> None:
        """Raise a ValueError unless y is of this kind.

        Args:
            y: as in `Examples`.
            mask: `[T, N]`, False for padding.
            values: also read the numbers, which waits for the device.
        """

    @abstractmethod
    def encode(self, y: Tensor, mask: Tensor) -> Tensor:
        """Labels as network input `[T, N, label_size]`, zeros for padding."""

    @abstractmethod
    def expand(self, values: Tensor) -> Tensor:
        """K numbers of labels `[..., K]` as network input: classes one-hot `[..., C * K]`, others unchanged."""

    @abstractmethod
    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        """log p(y) in nats: params `[T, M, P]`, y as in `Examples` -> `[T, M]`."""

    def error(self, params: Tensor, y: Tensor) -> Tensor:
        """The error `[T, M]` that a learner which adapts by gradient descent minimises.

        The negative log likelihood; for reals half the squared error of the mean.
        """
        return -self.log_prob(params, y)

    @abstractmethod
    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Scores to report beside the likelihood, each `[T, M]`: accuracy, squared error; NaN for none."""

    @abstractmethod
    def mixture(self, params: Tensor, weights: Tensor | None = None) -> Tensor:
        """One prediction for the mixture of S predictions: `[T, S, M, P]` -> `[T, M, P]`, float32.

        The weights `[T, S]` have the sum 1 for each task; by default they are equal.

        It has the mixture's probabilities if possible (classes, labels), else its mean and variance.
        """

    @property
    def units(self) -> tuple[int, ...]:
        """For each number of a label, which location and scale it shares with others, from 0; -1 if it has no unit."""
        return ()

    def in_units(self, params: Tensor, location: Tensor, scale: Tensor) -> Tensor:
        """Parameters of y from those of (y - location) / scale, whose axes are those of a label.

        The result has P + 2 K parameters for K real numbers, location and scale beside the others, and every method of
        the target takes it: densities include the Jacobian, means are in the units of y. Those of labels without a unit
        stay as they are.
        """
        return params

    def loss(self, params: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """L_i `[T]`: the mean negative log likelihood of each task's valid examples, mask `[T, M]`."""
        return self.losses(params, y, mask)[0]

    def losses(self, params: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """L_i, and the loss `[T]` of each named part if the target has parts."""
        return task_mean(-self.log_prob(params, y), mask), {}

    def counts(self, y: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """How many examples of each task `[T]` have a label of each named part, if the target has parts."""
        return {}

    def fit(self, y: Tensor, mask: Tensor) -> None:
        """Compute `statistics` from the labels of training tasks, y as in `Examples`, before the first step."""

    def union(self, other: Target) -> Target:
        """The target of a learner that serves both.

        Raises:
            ValueError: if y is of another kind or size.
        """
        if not isinstance(other, Target) or other.layout != self.layout:
            raise ValueError(f"expected targets of one kind and size, got {self} and {other}")
        return self

    @property
    def layout(self) -> tuple[object, ...]:
        """What two targets must share for the same y to belong to both."""
        return (self.shape,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and self.config == other.config

    def __hash__(self) -> int:
        return hash(json.dumps(self.config, sort_keys=True))
