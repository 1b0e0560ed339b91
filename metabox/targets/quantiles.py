"""Real vectors of which quantiles are predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from metabox.ranges import Count, Within
from metabox.targets.base import weighted_mean
from metabox.targets.vector import RealVector, quantiles_of

Level = Annotated[float, Within(above=0, below=1)]


class Quantiles(RealVector):
    """dy numbers, each by its quantiles at some levels, with the pinball loss (Koenker & Bassett 1978).

    The loss is the mean over levels q of `max(q e, (q - 1) e)`, e = z - f_q, summed over the numbers. P = dy times the
    number of levels. Predictions are read in ascending order, so that quantiles do not cross.

    One quantile has a density, the asymmetric Laplace of scale 1 in standard units. Several have none: there is no
    `nll`, and no inference of a task by its likelihood.

    Args:
        size: dy.
        levels: q, ascending, each between 0 and 1.

    Raises:
        ValueError: if levels are not ascending, or there are none.
    """

    log_term = 1.0

    def __init__(self, size: Count = 1, levels: Sequence[Level] = (0.5,)) -> None:
        super().__init__(size)
        self.levels = tuple(levels)
        if not self.levels or any(a >= b for a, b in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError(f"expected levels in ascending order, one at least, got {list(levels)}")

    @property
    def n_params(self) -> int:
        return self.size * len(self.levels)

    @property
    def has_density(self) -> bool:  # type: ignore[override]
        return len(self.levels) == 1

    @property
    def single(self) -> Quantiles:
        return Quantiles(1, self.levels)

    def _at(self, own: Tensor) -> Tensor:
        return torch.tensor(self.levels, dtype=own.dtype, device=own.device)

    def _quantiles(self, params: Tensor) -> Tensor:
        """Quantiles in standard units `[..., dy, L]`, ascending."""
        own = self.split_units(params)[0].float()
        values: Tensor = own.unflatten(-1, (self.size, len(self.levels))).sort(-1).values
        return values

    def _pinball(self, params: Tensor, y: Tensor) -> Tensor:
        """`[..., dy]`, in standard units."""
        f = self._quantiles(params)
        error, q = self.standard(params, y)[1].float()[..., None] - f, self._at(f)
        return torch.maximum(q * error, (q - 1) * error).mean(-1)

    def loss(self, params: Tensor, y: Tensor) -> Tensor:
        return self._pinball(params, y).sum(-1)

    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        if not self.has_density:
            raise ValueError(f"expected one level for a density, got {list(self.levels)}; use Bars, or one quantile")
        q, (_, units) = self.levels[0], self.split_units(params)
        density = self.size * math.log(q * (1 - q)) - self.loss(params, y)
        return density if units is None else density - units[1].float().log().sum(-1)  # the Jacobian

    def at_levels(self, params: Tensor) -> Tensor:
        """The predicted quantiles in the units of y, `[..., dy, L]`."""
        f, (_, units) = self._quantiles(params), self.split_units(params)
        return f if units is None else units[0][..., None] + units[1][..., None] * f

    def _grid(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Values `[..., dy, G]` and the share of the distribution `[G]` that each stands for."""
        f = self.at_levels(params)
        q = self._at(f)
        edges = torch.cat([q.new_zeros(1), (q[1:] + q[:-1]) / 2, q.new_ones(1)])
        return f, edges.diff()

    def mean(self, params: Tensor) -> Tensor:
        """Of one quantile the mean of its density; of several, each stands for what is nearest to its level."""
        values, shares = self._grid(params)
        if not self.has_density:
            return (values * shares).sum(-1)
        q, (_, units) = self.levels[0], self.split_units(params)
        shift = (1 - 2 * q) / (q * (1 - q))
        return values[..., 0] + (shift if units is None else shift * units[1])

    def std(self, params: Tensor) -> Tensor:
        """Likewise."""
        values, shares = self._grid(params)
        if not self.has_density:
            return ((values - self.mean(params)[..., None]).square() * shares).sum(-1).sqrt()
        q, (_, units) = self.levels[0], self.split_units(params)
        deviation = torch.full_like(values[..., 0], math.sqrt(1 - 2 * q + 2 * q * q) / (q * (1 - q)))
        return deviation if units is None else deviation * units[1]

    def quantile(self, params: Tensor, q: float | Tensor) -> Tensor:
        """Of one level that of its density; of several interpolated, and beyond the outermost levels theirs."""
        f, (_, units) = self.at_levels(params), self.split_units(params)
        q = quantiles_of(q, f[..., 0])
        if self.has_density:
            at = self.levels[0]
            below, above = (q / at).log() / (1 - at), -((1 - q) / (1 - at)).log() / at
            error = torch.where(q < at, below, above)
            return f[..., 0] + (error if units is None else error * units[1])
        levels = self._at(f)
        right = torch.searchsorted(levels, q.contiguous()).clamp(1, len(levels) - 1)
        share = ((q - levels[right - 1]) / (levels[right] - levels[right - 1])).clamp(0, 1)
        low, high = (f.gather(-1, i[..., None])[..., 0] for i in (right - 1, right))
        return low + share * (high - low)

    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The pinball loss in the units of y, and which numbers are covered.

        `coverage` is the share of y between the outermost quantiles; of one quantile, of y that is not above it.
        """
        f = self.at_levels(params)
        error, q = y.float()[..., None] - f, self._at(f)
        covered = (y <= f[..., -1]) & ((y >= f[..., 0]) | self.has_density)
        return {
            "pinball": torch.maximum(q * error, (q - 1) * error).mean((-2, -1)),
            "coverage": covered.float().mean(-1),
        }

    def mixture(self, params: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean of the quantiles at each level (Ratcliff 1979), not those of the mixture."""
        _, units = self.split_units(params)
        if units is None:
            return weighted_mean(self._quantiles(params), weights).flatten(-2)
        location, scale = (part[:, 0] for part in units)
        each = (self.at_levels(params) - location[:, None, ..., None]) / scale[:, None, ..., None]
        return self.in_units(weighted_mean(each, weights).flatten(-2), location, scale)
