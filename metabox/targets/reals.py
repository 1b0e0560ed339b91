"""Real vectors with independent normal noise."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.ranges import Count, NotNegative, Positive
from metabox.targets.base import weighted_mean
from metabox.targets.vector import RealVector, quantiles_of


class Reals(RealVector):
    """dy independent normal numbers; P = 2 dy: the means, then the raw scales.

    A standard deviation is `min_scale + factor * link(raw)`. Published ones are 0.1 + 0.9 softplus (the code of neural
    processes: Garnelo et al. 2018, Kim et al. 2019, and the baselines of Nguyen & Grover 2022), 0.05 + 0.95 softplus
    and exp without a floor (transformer neural processes on images and on functions, in the last paper's code), and
    softplus without a floor (Gordon et al. 2020).

    Args:
        size: dy.
        noise: a fixed standard deviation, in which case P = dy and the loss is half the squared error by it; for a
            learner that brings y to scale 1, a share of that scale, so that 1 is least squares in any unit.
        min_scale: the smallest learned standard deviation, 0 for none; for a learner that brings y to scale 1, a share
            of that scale.
        factor: what the link's value is multiplied by.
        link: a positive function of the raw scale.

    Raises:
        ValueError: for a size below 1, a noise or factor that is not positive, or a negative min_scale.
    """

    def __init__(
        self,
        size: Count,
        noise: Positive | None = None,
        min_scale: NotNegative = 1e-2,
        factor: Positive = 1.0,
        link: Literal["softplus", "exp"] = "softplus",
    ) -> None:
        super().__init__(size)
        self.noise = noise
        self.min_scale = min_scale
        self.factor = factor
        self.link = link

    @property
    def n_params(self) -> int:
        return self.size * (1 if self.noise else 2)

    @property
    def single(self) -> Reals:
        return Reals(1, self.noise, self.min_scale, self.factor, self.link)

    def mean_and_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """`[T, M, P]` -> mean and standard deviation, each `[T, M, dy]`."""
        own, units = self.split_units(params)
        mean, scale = self._standard(own)
        if units is None:
            return mean, scale
        location, unit = units
        return location + unit * mean, unit * scale

    def mean(self, params: Tensor) -> Tensor:
        return self.mean_and_scale(params)[0]

    def std(self, params: Tensor) -> Tensor:
        return self.mean_and_scale(params)[1]

    def quantile(self, params: Tensor, q: float | Tensor) -> Tensor:
        mean, scale = self.mean_and_scale(params)
        z: Tensor = torch.special.ndtri(quantiles_of(q, mean))
        return mean + scale * z

    def _standard(self, params: Tensor) -> tuple[Tensor, Tensor]:
        params = params.float()
        if self.noise:
            return params, torch.full_like(params, self.noise)
        mean, raw = params.chunk(2, dim=-1)
        return mean, self.min_scale + self.factor * (raw.exp() if self.link == "exp" else F.softplus(raw))

    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        own, units = self.split_units(params)
        mean, scale = self._standard(own)
        if units is None:
            z = (y.float() - mean) / scale
        else:  # by the scale of y first: a mean of 5000 would round what is known to a hundredth
            location, unit = units
            z = (((y - location) / unit).float() - mean) / scale
            scale = unit * scale  # the Jacobian
        return (-0.5 * z**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    @property
    def learned_scale(self) -> bool:  # type: ignore[override]
        return self.noise is None

    def loss(self, params: Tensor, y: Tensor) -> Tensor:
        return super().loss(params, y) if self.noise is None else self.error(params, y) / self.noise**2

    def error(self, params: Tensor, y: Tensor) -> Tensor:
        own, z = self.standard(params, y)
        return 0.5 * (self._standard(own)[0] - z.float()).square().sum(-1)

    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"squared_error": (self.mean_and_scale(params)[0] - y).square().mean(-1)}

    def mixture(self, params: Tensor, weights: Tensor | None = None) -> Tensor:
        """The normal with the mixture's mean and, unless the noise is fixed, its variance."""
        own, units = self.split_units(params)
        means, scales = self._standard(own)
        if units is not None:  # in the units of the first; they are the same for one learner
            location, unit = units
            first, of_first = location[:, :1], unit[:, :1]
            means, scales = (location - first) / of_first + unit / of_first * means, unit / of_first * scales
            return self.in_units(self._mixed(means, scales, weights), first[:, 0], of_first[:, 0])
        return self._mixed(means, scales, weights)

    def _mixed(self, means: Tensor, scales: Tensor, weights: Tensor | None) -> Tensor:
        mean = weighted_mean(means, weights)
        if self.noise:
            return mean
        if weights is None:
            apart = means.var(1, correction=0)
        else:
            apart = weighted_mean((means - mean[:, None]).square(), weights)
        variance = weighted_mean(scales.square(), weights) + apart  # the law of total variance
        above = ((variance.sqrt() - self.min_scale) / self.factor).clamp(min=SMALLEST)
        raw = above.log() if self.link == "exp" else above + torch.log(-torch.expm1(-above))  # the inverse of the link
        return torch.cat([mean, raw], dim=-1)


SMALLEST = 1e-6
