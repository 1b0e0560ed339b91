"""The kind of a task's targets: p(y | params) and everything else that depends on what y is.

P natural parameters per query point become log p(y|x), in float32 whatever the autocast. The loss L_i of a task is the
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
    """The mean of each task's valid examples: values `[T, M]`, mask `[T, M]` -> `[T]`, 0 for a task with none."""
    # where, not a product: what stands in the padding may be infinite
    return torch.where(mask, values, 0.0).sum(1) / mask.sum(1).clamp(min=1)


def score_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of each task's scores that are there: `[T, M]`, NaN for none -> `[T]`, NaN for none."""
    there = mask & ~values.isnan()
    return task_mean(values, there).masked_fill(~there.any(1), math.nan)


class Target(Configured, ABC):
    """What y is, and p(y | params): one file for each kind, and no learner asks which it is.

    Two targets are equal if they were made with the same arguments.

    Args:
        size: number of classes, of reals, of labels.

    Raises:
        ValueError: for a size below 1.
    """

    word: ClassVar[str]
    """What the kind is called in messages, in the plural."""
    parts: tuple[Part, ...] = ()
    """Named parts, for `Parts` alone."""
    statistics: nn.Module | None = None
    """What a kind keeps of the training tasks, as buffers, which a learner saves with its weights; see `fit`."""

    def __init__(self, size: Count) -> None:
        self.size = size

    @property
    def n_classes(self) -> int | None:
        """C, if labels are classes of which each task has a set of its own."""
        return None

    @property
    @abstractmethod
    def n_params(self) -> int:
        """P, the natural parameters that a learner gives per query point."""

    @property
    def label_size(self) -> int:
        """Numbers of one label as `encode` writes it."""
        return self.size

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one label in y: `()` for classes, `(size,)` for vectors."""

    @property
    @abstractmethod
    def single(self) -> Target:
        """The target of one number of a label, which is predicted by itself in a part (see `Parts`)."""

    @abstractmethod
    def wrong(self, y: Tensor) -> Tensor:
        """Which of the numbers of labels, none of them NaN, no label can have: bool, of the shape of y."""

    @property
    @abstractmethod
    def values(self) -> str:
        """The numbers that a label can have, in words."""

    @abstractmethod
    def check(self, y: Tensor, mask: Tensor, *, values: bool = True) -> None:
        """Raise a ValueError unless y, of which mask `[T, N]` tells the padding, is of this kind.

        Args:
            y: as in `Examples`.
            mask: `[T, N]`.
            values: read the numbers too, which waits for the device.
        """

    @abstractmethod
    def encode(self, y: Tensor, mask: Tensor) -> Tensor:
        """Labels as a network reads them `[T, N, label_size]`, zeros for padding."""

    @abstractmethod
    def expand(self, values: Tensor) -> Tensor:
        """Numbers of labels side by side `[..., K]` as a network reads them: classes one-hot `[..., C * K]`."""

    @abstractmethod
    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        """log p(y) in nats: params `[T, M, P]`, y as in `Examples` -> `[T, M]`."""

    def error(self, params: Tensor, y: Tensor) -> Tensor:
        """How far off predictions are, `[T, M]`: what a learner that adapts by gradients descends on.

        The negative log likelihood, of which nothing but the mean counts for reals: half the squared error.
        """
        return -self.log_prob(params, y)

    @abstractmethod
    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What people read beside the likelihood, each `[T, M]`: accuracy, squared error; NaN for none."""

    @abstractmethod
    def mixture(self, params: Tensor) -> Tensor:
        """The one prediction that stands for several, all equally likely: `[T, S, M, P]` -> `[T, M, P]`, float32.

        It has the mixture's probabilities if it can (classes, labels), else its mean and variance.
        """

    def loss(self, params: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """L_i `[T]`: the mean negative log likelihood of each task's valid examples, mask `[T, M]`."""
        return self.losses(params, y, mask)[0]

    def losses(self, params: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """L_i, and the loss `[T]` of each named part, for a target that has parts."""
        return task_mean(-self.log_prob(params, y), mask), {}

    def fit(self, y: Tensor, mask: Tensor) -> None:
        """Take `statistics` of the labels of training tasks, y as in `Examples`, before the first step."""

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
