"""Real vectors with Huber's loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metabox.ranges import Count, Positive
from metabox.targets.location import LocationFamily


class Huber(LocationFamily):
    """dy numbers with the loss of Huber 1964: half the square of an error up to `delta`, linear beyond.

    The density is his least favourable one: normal in the middle, with exponential tails.

    Args:
        size: dy.
        delta: the error from which the loss is linear, as a share of the scale of y for a learner that brings y to
            scale 1.
    """

    def __init__(self, size: Count = 1, delta: Positive = 1.0) -> None:
        super().__init__(size)
        self.delta = delta

    @property
    def single(self) -> Huber:
        return Huber(1, self.delta)

    def cost(self, error: Tensor) -> Tensor:
        size = error.abs()
        return torch.where(size <= self.delta, 0.5 * size.square(), self.delta * (size - self.delta / 2))

    @property
    def _middle_and_tail(self) -> tuple[float, float]:
        """The integrals of exp(-cost) over the middle, and over one tail."""
        middle = math.sqrt(2 * math.pi) * math.erf(self.delta / math.sqrt(2))
        return middle, math.exp(-(self.delta**2) / 2) / self.delta

    @property
    def log_normaliser(self) -> float:
        middle, tail = self._middle_and_tail
        return math.log(middle + 2 * tail)

    @property
    def moments(self) -> tuple[float, float]:
        d, (middle, tail) = self.delta, self._middle_and_tail
        inside = middle - 2 * d * math.exp(-(d**2) / 2)
        outside = 2 * tail * (d**2 + 2 + 2 / d**2)
        return 0.0, math.sqrt((inside + outside) / (middle + 2 * tail))

    def error_quantile(self, q: Tensor) -> Tensor:
        d, (middle, tail) = self.delta, self._middle_and_tail
        whole = middle + 2 * tail
        beyond = torch.minimum(q, 1 - q) * whole / tail  # 1 at the edge of a tail
        outside = (q - 0.5).sign() * (d - beyond.clamp(max=1).log() / d)
        below = 0.5 * math.erfc(d / math.sqrt(2))
        inside = torch.special.ndtri((below + (q * whole - tail) / math.sqrt(2 * math.pi)).clamp(1e-7, 1 - 1e-7))
        return torch.where(beyond < 1, outside, inside)
