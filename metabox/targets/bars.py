"""Real vectors whose density is a histogram over quantiles of the training labels."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor, nn

from metabox.ranges import Count, Within
from metabox.targets.base import log_weights
from metabox.targets.vector import RealVector, quantiles_of

MEDIAN = 0.6744897501960817
"""Median of a half-normal distribution of scale 1."""


class Bars(RealVector):
    """dy numbers, each with a density that is constant within bars and half normal in the two outermost.

    The "Riemann distribution" of Müller et al. 2022 ("Transformers Can Do Bayesian Inference", section 4), with its
    tails. Borders are quantiles of the labels of training tasks, so that all bars hold about equally many; they are
    saved with the weights. The natural parameters are the logits of the bars, P = dy * n_bars. No parametric form is
    assumed: the density can be skewed or have several modes. Of a learner with a `scale` (see `TaskSpec`), the borders
    are on that scale.

    Args:
        size: dy.
        n_bars: bars for each number, including the two tails.

    Raises:
        ValueError: for a size below 1, or fewer than 3 bars.
    """

    statistics: Statistics
    learned_scale = True

    def __init__(self, size: Count = 1, n_bars: Annotated[int, Within(least=3)] = 100) -> None:
        super().__init__(size)
        self.n_bars = n_bars
        self.statistics = Statistics(size, n_bars)

    @property
    def n_params(self) -> int:
        return self.size * self.n_bars

    @property
    def single(self) -> Bars:
        raise ValueError("expected Reals, Binary or Classes in a part, got Bars, whose borders are the whole target's")

    def fit(self, y: Tensor, mask: Tensor) -> None:
        """Set the borders to the quantiles 1/B, 2/B, ... of the labels, the tails' medians to 1/2B and 1 - 1/2B."""
        values = y[mask].double().sort(0).values  # [K, dy]
        at = torch.arange(1, 2 * self.n_bars, device=y.device) / (2 * self.n_bars)
        quantiles = _quantiles(values, at).T  # [dy, 2B - 1]
        # Ties, from rounded or constant labels, would give bars of zero width.
        spread = (values[-1] - values[0]).clamp(min=1e-6 * values.abs().amax(0)).masked_fill(values[-1] == values[0], 1)
        least = (1e-4 / self.n_bars * spread)[:, None] * torch.arange(2 * self.n_bars - 1, device=y.device)
        quantiles = (quantiles - least).cummax(1).values + least
        self.statistics.borders.copy_(quantiles[:, 1::2])
        edges = quantiles[:, [0, 1, -2, -1]]
        self.statistics.tails.copy_((edges[:, [1, 3]] - edges[:, [0, 2]]) / MEDIAN)

    def log_probs(self, params: Tensor) -> Tensor:
        """log p of each bar: `[..., P]` -> `[..., dy, B]`."""
        bars: Tensor = self.split_units(params)[0].float().unflatten(-1, (self.size, self.n_bars))
        return bars.log_softmax(-1)

    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        borders, tails = self.statistics.borders, self.statistics.tails
        _, units = self.split_units(params)
        y = y.float() if units is None else ((y - units[0]) / units[1]).float()
        bar = torch.searchsorted(borders, y.movedim(-1, 0).flatten(1).contiguous())  # [dy, T M]
        bar = bar.unflatten(1, y.shape[:-1]).movedim(0, -1)[..., None]  # [T, M, dy, 1]
        width = borders.diff(dim=-1).log().neg().expand(*y.shape, -1)
        inside = width.gather(-1, (bar - 1).clamp(0, self.n_bars - 3))[..., 0]
        beyond = torch.stack([borders[:, 0] - y, y - borders[:, -1]], dim=-1) / tails
        half_normal = 0.5 * math.log(2 / math.pi) - tails.log() - 0.5 * beyond.square()
        density = torch.where(bar[..., 0] == 0, half_normal[..., 0], inside)
        density = torch.where(bar[..., 0] == self.n_bars - 1, half_normal[..., 1], density)
        if units is not None:
            density = density - units[1].log()  # the Jacobian
        return (self.log_probs(params).gather(-1, bar)[..., 0] + density).sum(-1)

    def mean(self, params: Tensor) -> Tensor:
        return self._in_units(self._moments(params)[0], params)

    def std(self, params: Tensor) -> Tensor:
        mean, square = self._moments(params)
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        units = self.split_units(params)[1]
        return deviation if units is None else units[1] * deviation

    def _moments(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """The means of y and of its square, without units: `[..., dy]` each."""
        borders, tails = self.statistics.borders, self.statistics.tails
        ends = borders[:, [0, -1]] + math.sqrt(2 / math.pi) * tails * tails.new_tensor([-1.0, 1.0])
        centres = torch.cat([ends[:, :1], (borders[:, 1:] + borders[:, :-1]) / 2, ends[:, 1:]], dim=-1)
        inside = borders.diff(dim=-1).square() / 12
        outside = (1 - 2 / math.pi) * tails.square()
        squares = centres.square() + torch.cat([outside[:, :1], inside, outside[:, 1:]], dim=-1)
        p = self.log_probs(params).exp()
        return (p * centres).sum(-1), (p * squares).sum(-1)

    def _in_units(self, z: Tensor, params: Tensor) -> Tensor:
        _, units = self.split_units(params)
        return z if units is None else units[0] + units[1] * z

    def quantile(self, params: Tensor, q: float | Tensor) -> Tensor:
        borders, tails = self.statistics.borders, self.statistics.tails
        p = self.log_probs(params).exp()
        q = quantiles_of(q, p[..., 0])[..., None]
        below = p.cumsum(-1)
        bar = (below < q).sum(-1, keepdim=True).clamp(max=self.n_bars - 1)
        share = ((q - (below - p).gather(-1, bar)) / p.gather(-1, bar).clamp(min=1e-30)).clamp(1e-6, 1 - 1e-6)[..., 0]
        bar = bar[..., 0]
        k = (bar - 1).clamp(0, self.n_bars - 3)[..., None]
        low, width = (part.expand(*p.shape[:-1], -1).gather(-1, k)[..., 0] for part in (borders, borders.diff(dim=-1)))
        # For a half-normal distribution, P(|z| < u) = erf(u / sqrt 2).
        left = borders[:, 0] - tails[:, 0] * math.sqrt(2) * torch.erfinv(1 - share)
        right = borders[:, -1] + tails[:, 1] * math.sqrt(2) * torch.erfinv(share)
        z = torch.where(bar == 0, left, torch.where(bar == self.n_bars - 1, right, low + share * width))
        return self._in_units(z, params)

    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"squared_error": (self.mean(params) - y).square().mean(-1)}

    def mixture(self, params: Tensor, weights: Tensor | None = None) -> Tensor:
        each = self.log_probs(params)
        if weights is None:
            mixed = (each.logsumexp(1) - math.log(params.shape[1])).flatten(-2)
        else:
            mixed = (each + log_weights(each, weights)).logsumexp(1).flatten(-2)
        _, units = self.split_units(params)
        return mixed if units is None else self.in_units(mixed, *(part[:, 0] for part in units))


class Statistics(nn.Module):
    """Borders between bars `[dy, B - 1]` and the scales of the two tails `[dy, 2]`; initially for a standard normal."""

    borders: Tensor
    tails: Tensor

    def __init__(self, size: int, n_bars: int) -> None:
        super().__init__()
        at = torch.special.ndtri(torch.arange(1, 2 * n_bars, dtype=torch.float64) / (2 * n_bars)).float()
        self.register_buffer("borders", at[1::2].expand(size, -1).clone())
        self.register_buffer("tails", ((at[1] - at[0]) / MEDIAN).expand(size, 2).clone())


def _quantiles(values: Tensor, at: Tensor) -> Tensor:
    """Quantiles of each column of sorted values `[K, dy]`, linearly interpolated: `[len(at), dy]`."""
    place = at.to(values) * (len(values) - 1)
    low = place.long()
    return torch.lerp(values[low], values[(low + 1).clamp(max=len(values) - 1)], (place - low)[:, None])
