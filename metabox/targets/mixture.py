"""Real vectors whose density is a mixture of normal ones."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.ranges import Count, Positive
from metabox.targets.vector import RealVector, quantiles_of

REACH = 8.0  # scales beyond the outermost means, between which quantiles are searched
HALVINGS = 30


class Mixture(RealVector):
    """dy numbers, each with a mixture of normal densities, as in a mixture density network (Bishop 1994).

    It can be skewed, heavy-tailed or have several modes, and as narrow as `min_scale`. The natural parameters of a
    number are the logits, means and raw scales (`min_scale` + softplus) of its components, P = 3 dy n_components. Means
    count from -1 to 1, evenly spaced, so that components differ before training.

    Args:
        size: dy.
        n_components: normal densities for each number.
        min_scale: their smallest standard deviation; for a learner that brings y to scale 1, a share of that scale.

    Raises:
        ValueError: for a size or number of components below 1, or a standard deviation that is not positive.
    """

    learned_scale = True

    def __init__(self, size: Count = 1, n_components: Count = 5, min_scale: Positive = 2e-3) -> None:
        super().__init__(size)
        self.n_components = n_components
        self.min_scale = min_scale

    @property
    def n_params(self) -> int:
        return 3 * self.size * self.n_components

    @property
    def single(self) -> Mixture:
        return Mixture(1, self.n_components, self.min_scale)

    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        log_weights, means, scales, units = self._components(params)
        y = y if units is None else (y - units[0]) / units[1]
        z = (y.float()[..., None] - means) / scales
        each = log_weights - 0.5 * z.square() - scales.log() - 0.5 * math.log(2 * math.pi)
        density = each.logsumexp(-1)
        return (density if units is None else density - units[1].log().float()).sum(-1)

    def mean(self, params: Tensor) -> Tensor:
        log_weights, means, _, units = self._components(params)
        return _in_units((log_weights.exp() * means).sum(-1), units)

    def std(self, params: Tensor) -> Tensor:
        log_weights, means, scales, units = self._components(params)
        deviation = _deviation(log_weights.exp(), means, scales)
        return deviation if units is None else units[1] * deviation

    def quantile(self, params: Tensor, q: float | Tensor) -> Tensor:
        log_weights, means, scales, units = self._components(params)
        weights = log_weights.exp()
        q = quantiles_of(q, weights[..., 0])
        low, high = (means - REACH * scales).amin(-1), (means + REACH * scales).amax(-1)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below = (weights * torch.special.ndtr((middle[..., None] - means) / scales)).sum(-1) < q
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return _in_units((low + high) / 2, units)

    def error(self, params: Tensor, y: Tensor) -> Tensor:
        own, z = self.standard(params, y)
        return 0.5 * (self.mean(own) - z).square().sum(-1)

    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"squared_error": (self.mean(params) - y).square().mean(-1)}

    def mixture(self, params: Tensor, weights: Tensor | None = None) -> Tensor:
        """One normal with the mean and the variance of all."""
        log_weights, means, scales, units = self._components(params)
        each = log_weights.exp()
        each = each / params.shape[1] if weights is None else each * weights.float()[..., None, None, None]
        each = each.movedim(1, -2).flatten(-2)
        means, scales = (part.movedim(1, -2).flatten(-2) for part in (means, scales))
        mean, deviation = (each * means).sum(-1, keepdim=True), _deviation(each, means, scales)[..., None]
        above = (deviation - self.min_scale).clamp(min=1e-6)
        raw = above + torch.log(-torch.expm1(-above))  # the inverse of softplus
        each = torch.stack([torch.zeros_like(mean), mean, raw], dim=-2).expand(
            *mean.shape[:-1], 3, self.n_components
        ) - _offsets(mean, self.n_components)
        mixed = each.flatten(-3)
        return mixed if units is None else self.in_units(mixed, *(part[:, 0] for part in units))

    def _components(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Log weights, means and scales of the components, each `[..., dy, K]`; the units."""
        own, units = self.split_units(params)
        parts = own.float().unflatten(-1, (self.size, 3, self.n_components))
        logits, means, raw = (parts + _offsets(parts, self.n_components)).unbind(-2)
        return logits.log_softmax(-1), means, self.min_scale + F.softplus(raw), units


def _offsets(like: Tensor, k: int) -> Tensor:
    """What is added to logits, means and raw scales `[3, K]`."""
    zeros = like.new_zeros(k)
    spread = torch.linspace(-1, 1, k, dtype=like.dtype, device=like.device) if k > 1 else zeros
    return torch.stack([zeros, spread, zeros])


def _deviation(weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """By the law of total variance."""
    mean = (weights * means).sum(-1, keepdim=True)
    return (weights * (scales.square() + (means - mean).square())).sum(-1).sqrt()


def _in_units(z: Tensor, units: tuple[Tensor, Tensor] | None) -> Tensor:
    return z if units is None else units[0] + units[1] * z
