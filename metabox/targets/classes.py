"""One of C classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from metabox.nn.sets import membership, one_hot
from metabox.ranges import Count, NotNegative
from metabox.targets.base import Target, log_weights

LOWEST = float(torch.finfo(torch.float32).min)


class Classes(Target):
    """One of C classes, by its id; the natural parameters are logits.

    A learner sets the logits outside a task's label set so low that their probability is 0.

    `focal` and `weights` change the loss only, `-w_y (1 - p_y)^focal log p_y` (Lin et al. 2017, "Focal loss for dense
    object detection"); likelihood, probabilities and calibration stay those of the softmax.

    Args:
        size: C, the largest number of classes of a task.
        focal: how much an example counts less that is predicted well; 0 for all the same, 2 in the paper.
        weights: w, of each class in the loss; all 1 by default.

    Raises:
        ValueError: if there are not as many weights as classes.
    """

    word = "classes"

    def __init__(self, size: Count, focal: NotNegative = 0.0, weights: Sequence[NotNegative] | None = None) -> None:
        super().__init__(size)
        self.focal, self.weights = focal, None if weights is None else tuple(weights)
        if weights is not None and len(weights) != size:
            raise ValueError(f"expected {size} weights, one for each class, got {len(weights)}")

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

    def loss(self, params: Tensor, y: Tensor) -> Tensor:
        log_p = self.log_prob(params, y)
        loss = -log_p
        if self.focal:
            loss = loss * (-torch.expm1(log_p.clamp(max=-1e-7))) ** self.focal
        if self.weights is not None:
            loss = loss * torch.tensor(self.weights, device=loss.device)[y]
        return loss

    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (self.log_probs(params).argmax(-1) == y).float()}

    def answer(self, params: Tensor) -> Tensor:
        return self.log_probs(params).exp()

    def mixture(self, params: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is None:
            return self.log_probs(params).logsumexp(1) - math.log(params.shape[1])
        return (self.log_probs(params) + log_weights(params, weights)).logsumexp(1).clamp(min=LOWEST)

    def union(self, other: Target) -> Target:
        super().union(other)
        return max(self, other, key=lambda target: target.size)
