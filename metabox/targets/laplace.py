"""Real vectors with absolute errors as their loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metabox.ranges import Count
from metabox.targets.location import LocationFamily


class Laplace(LocationFamily):
    """dy numbers whose loss is L1, the absolute error; the density is Laplace's of scale 1 in standard units.

    What is predicted is the median. In the units of y the scale is that of the training tasks, for a learner that
    brings y to scale 1.

    Args:
        size: dy.
    """

    log_term = 1.0

    def __init__(self, size: Count = 1) -> None:
        super().__init__(size)

    @property
    def single(self) -> Laplace:
        return Laplace(1)

    def cost(self, error: Tensor) -> Tensor:
        return error.abs()

    @property
    def log_normaliser(self) -> float:
        return math.log(2)

    @property
    def moments(self) -> tuple[float, float]:
        return 0.0, math.sqrt(2)

    def error_quantile(self, q: Tensor) -> Tensor:
        return -(q - 0.5).sign() * torch.log1p(-2 * (q - 0.5).abs())
