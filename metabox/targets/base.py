"""The kind of a task's targets: p(y | params) and everything else that depends on what y is.

P natural parameters per query point become log p(y|x), in float32 even under autocast. The loss L_i of a task is the
negative log likelihood of its query examples unless the target says otherwise. One reduction is used everywhere:
`task_mean` over a task's valid examples, then the mean over tasks.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

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
    has_density: bool = True
    """Whether there is a `log_prob`: without one there is no nll, and no inference by likelihood."""
    learned_scale: bool = False
    """Whether a spread of real y is predicted, so that no weighting has to learn it."""
    log_term: float = 0.5
    """c of `exp(-v) loss + c v`, the loss of a number once its scale has become exp(v / 2)."""
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

    def standard(self, params: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters without location and scale, and y by these: both in standard units; see `in_units`."""
        return params, y

    def loss(self, params: Tensor, y: Tensor) -> Tensor:
        """What is minimised, `[T, M]`: by default -log p(y) in standard units, without the Jacobian.

        The losses of two parts or tasks are then of one size, whatever the units of y. A scale that is fixed leaves no
        constant in it.
        """
        return -self.log_prob(*self.standard(params, y))

    def error(self, params: Tensor, y: Tensor) -> Tensor:
        """The loss `[T, M]` at scale 1: for reals with a learned scale half the squared error of the mean.

        A learner that adapts by gradient descent minimises it, and the cosines between tasks are read on it.
        """
        return self.loss(params, y)

    @abstractmethod
    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Scores to report beside the likelihood, each `[T, M]`: accuracy, squared error; NaN for none."""

    @abstractmethod
    def mixture(self, params: Tensor, weights: Tensor | None = None) -> Tensor:
        """One prediction for the mixture of S predictions: `[T, S, M, P]` -> `[T, M, P]`, float32.

        The weights `[T, S]` have the sum 1 for each task; by default they are equal.

        It has the mixture's probabilities if possible (classes, labels), else its mean and variance.
        """

    @abstractmethod
    def answer(self, params: Tensor) -> Tensor:
        """What is predicted, in words that need no formula: `[..., P]` -> `[..., K]`.

        The probability of each class, or that each label is 1; means in the units of y.
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

    def nll(self, params: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """The mean of -log p(y) over each task's valid examples, in nats and the units of y: mask `[T, M]` -> `[T]`."""
        return task_mean(-self.log_prob(params, y), mask)

    def losses(
        self, params: Tensor, y: Tensor, mask: Tensor, of: Literal["loss", "error"] = "loss"
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_i `[T]`, the mean loss (or error) of each task's valid examples; and that of each part, if it has parts."""
        return task_mean(getattr(self, of)(params, y), mask), {}

    def ranked(self, params: Tensor, y: Tensor, mask: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Scores and truths `[R, L]` of the valid examples' binary labels, by part ("" without), on the CPU.

        The truth is 0 or 1, or -1 for a label that is missing.
        """
        return {}

    def of_task(self, name: str) -> Target:
        """The target of a named task: itself, unless tasks have kinds of their own."""
        return self

    def for_tasks(self, task: Tensor | None, names: Sequence[str]) -> Target:
        """The target of rows of these tasks, `[T]` indices of names; itself, unless tasks have kinds of their own."""
        return self

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
