"""Several yes/no labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from metabox.targets.base import log_weights
from metabox.targets.vector import Vector


class Binary(Vector):
    """L independent yes/no labels, 0 or 1; the natural parameters are their logits.

    Args:
        size: L.
    """

    word = "binary labels"

    @property
    def n_params(self) -> int:
        return self.size

    @property
    def single(self) -> Binary:
        return Binary(1)

    @property
    def values(self) -> str:
        return "binary labels of 0 and 1"

    @property
    def layout(self) -> tuple[object, ...]:
        return ("binary", *self.shape)

    def wrong(self, y: Tensor) -> Tensor:
        return (y != 0) & (y != 1)

    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(params.float(), y.float(), reduction="none").sum(-1)

    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"accuracy": ((params > 0) == (y > 0.5)).float().mean(-1)}

    def mixture(self, params: Tensor, weights: Tensor | None = None) -> Tensor:
        logits, w = params.float(), 0.0 if weights is None else log_weights(params, weights)
        return (F.logsigmoid(logits) + w).logsumexp(1) - (F.logsigmoid(-logits) + w).logsumexp(1)
