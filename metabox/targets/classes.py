"""One of C classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metabox.nn.sets import membership, one_hot
from metabox.targets.base import Target, log_weights

LOWEST = float(torch.finfo(torch.float32).min)


class Classes(Target):
    """One of C classes, by its id; the natural parameters are logits.

    A learner sets the logits outside a task's label set so low that their probability is 0.

    Args:
        size: C, the largest number of classes of a task.
    """

    word = "classes"

    @property
    def n_classes(self) -> int:
        return self.size

    @property
    def n_params(self) -> int:
        return self.size

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def single(self) -> Classes:
        return self

    @property
    def values(self) -> str:
        return f"class ids from 0 to {self.size - 1}"

    def wrong(self, y: Tensor) -> Tensor:
        return (y < 0) | (y != y.floor()) | (y >= self.size)

    def check(self, y: Tensor, mask: Tensor, *, values: bool = True) -> None:
        if y.ndim != 2:
            raise ValueError(f"expected class ids y as int64 [T, N], got {list(y.shape)}; use y.argmax(-1) for one-hot")
        real = y[mask] if values else y[:0]
        if real.numel() and not 0 <= int(real.min()) <= int(real.max()) < self.size:
            raise ValueError(
                f"expected class ids from 0 to {self.size - 1}, got {int(real.min())} to {int(real.max())}; "
                "number each task's classes from 0 and build the learner for enough of them"
            )

    def encode(self, y: Tensor, mask: Tensor) -> Tensor:
        return membership(y, mask, self.size)

    def expand(self, values: Tensor) -> Tensor:
        return one_hot(values.long(), self.size).transpose(-1, -2).flatten(-2)

    def log_probs(self, params: Tensor) -> Tensor:
        """log p of each class, `[T, M, C]`."""
        return params.float().log_softmax(-1)

    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        return self.log_probs(params).gather(-1, y[..., None]).squeeze(-1)

    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (self.log_probs(params).argmax(-1) == y).float()}

    def mixture(self, params: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is None:
            return self.log_probs(params).logsumexp(1) - math.log(params.shape[1])
        return (self.log_probs(params) + log_weights(params, weights)).logsumexp(1).clamp(min=LOWEST)

    def union(self, other: Target) -> Target:
        super().union(other)
        return max(self, other, key=lambda target: target.size)
