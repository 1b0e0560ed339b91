"""Several yes/no labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.ranges import Count, NotNegative, Positive
from metabox.targets.base import log_weights
from metabox.targets.vector import Vector


class Binary(Vector):
    """L independent yes/no labels, 0 or 1; the natural parameters are their logits.

    `focal` and `positive` change the loss only, as for `Classes`.

    Args:
        size: L.
        focal: how much a label counts less that is predicted well.
        positive: weight of labels that are 1, in the loss.
    """

    word = "binary labels"

    def __init__(self, size: Count, focal: NotNegative = 0.0, positive: Positive = 1.0) -> None:
        super().__init__(size)
        self.focal, self.positive = focal, positive

    @property
    def n_params(self) -> int:
        return self.size

    @property
    def single(self) -> Binary:
        return Binary(1, self.focal, self.positive)

    @property
    def values(self) -> str:
        return "binary labels of 0 and 1"

    @property
    def layout(self) -> tuple[object, ...]:
        return ("binary", *self.shape)

    def wrong(self, y: Tensor) -> Tensor:
        return (y != 0) & (y != 1)

    def loss(self, params: Tensor, y: Tensor) -> Tensor:
        if not self.focal and self.positive == 1:
            return super().loss(params, y)
        each = F.binary_cross_entropy_with_logits(params.float(), y.float(), reduction="none")
        if self.focal:
            each = each * (-torch.expm1(-each.clamp(min=1e-7))) ** self.focal
        return (each * torch.where(y > 0.5, self.positive, 1.0)).sum(-1)

    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(params.float(), y.float(), reduction="none").sum(-1)

    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"accuracy": ((params > 0) == (y > 0.5)).float().mean(-1)}

    def ranked(self, params: Tensor, y: Tensor, mask: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        return {"": (params[mask].float().cpu(), y[mask].nan_to_num(-1).long().cpu())}

    def answer(self, params: Tensor) -> Tensor:
        return params.float().sigmoid()

    def mixture(self, params: Tensor, weights: Tensor | None = None) -> Tensor:
        logits, w = params.float(), 0.0 if weights is None else log_weights(params, weights)
        return (F.logsigmoid(logits) + w).logsumexp(1) - (F.logsigmoid(-logits) + w).logsumexp(1)
