"""Directions in space."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.ranges import TwoOrMore
from metabox.targets.base import weighted_mean
from metabox.targets.vector import Vector


class Direction(Vector):
    """A direction in a space of d dimensions, given as a vector of any length; the loss is 1 minus the cosine.

    A vector of zeros has none, and counts as orthogonal to every prediction: leave it out.

    The density is von Mises and Fisher's on the unit sphere, of concentration 1: `exp(cos) / C` with `C = (2 pi)^(d/2)
    I_(d/2-1)(1)`. P = d: a vector in the predicted direction. In a part, one direction at each pixel.

    Args:
        size: d; 3 for surface normals.

    Raises:
        ValueError: for fewer than two dimensions.
    """

    word = "directions"

    def __init__(self, size: TwoOrMore = 3) -> None:
        super().__init__(size)

    @property
    def n_params(self) -> int:
        return self.size

    @property
    def single(self) -> Direction:
        return self

    @property
    def values(self) -> str:
        return "finite numbers"

    @property
    def layout(self) -> tuple[object, ...]:
        return ("reals", *self.shape)  # the same y as Reals

    def wrong(self, y: Tensor) -> Tensor:
        return y.isinf()

    def cosine(self, params: Tensor, y: Tensor) -> Tensor:
        return F.cosine_similarity(params.float(), y.float(), dim=-1)

    def loss(self, params: Tensor, y: Tensor) -> Tensor:
        return 1 - self.cosine(params, y)

    @property
    def log_normaliser(self) -> float:
        from scipy.special import iv

        return self.size / 2 * math.log(2 * math.pi) + math.log(iv(self.size / 2 - 1, 1.0))

    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        """In nats, with respect to the area of the unit sphere."""
        return self.cosine(params, y) - self.log_normaliser

    def mean(self, params: Tensor) -> Tensor:
        """The predicted direction, of length 1: `[..., d]`."""
        return F.normalize(params.float(), dim=-1)

    def answer(self, params: Tensor) -> Tensor:
        return self.mean(params)

    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The angle between truth and prediction, in degrees."""
        return {"angle": torch.rad2deg(torch.acos(self.cosine(params, y).clamp(-1, 1)))}

    def mixture(self, params: Tensor, weights: Tensor | None = None) -> Tensor:
        """The direction of the mean of all directions."""
        return weighted_mean(self.mean(params), weights)
