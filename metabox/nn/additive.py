"""What an additive model of the columns predicts for each row, in closed form: ridge regression over their features."""

from __future__ import annotations

import torch
from torch import Tensor

from metabox.nn.tabular import FEATURES

LINEAR = 2
"""The first features of a cell: its number and whether it is missing; the others are places, which draw a curve."""
PENALTIES = ((1.0, 1e9), (30.0, 1e9), (1.0, 1.0), (3.0, 10.0), (30.0, 100.0), (1e4, 1e4))
"""Of the weights of linear features and of the others; the one with the least error in leaving one row out is taken."""
LEAST = 1e-3
"""Of the part of a row's residual that is not its own doing."""


@torch.no_grad()
def fit_additive(features: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Fit the support of each task, in float64, with the penalty that predicts its rows best if each is left out.

    Args:
        features: of the cells, `[T, D, N, FEATURES]`.
        y: labels `[T, N, L]`, of classes one-hot.
        mask: `[T, N]`.

    Returns:
        what the other rows predict for each row, `[T, N, L]`, 0 where there are none (Hastie et al. 2009, equation
        7.64), and the weights `[T, D * FEATURES + 1, L]`, the last of which is the intercept.
    """
    with torch.autocast(features.device.type, enabled=False):
        known = mask[..., None].to(torch.float64)
        count = known.sum(1, keepdim=True).clamp(min=1)
        x, y = _rows(features).to(torch.float64) * known, y.to(torch.float64) * known
        middle, level = x.sum(1, keepdim=True) / count, y.sum(1, keepdim=True) / count
        x, y = (x - middle) * known, (y - level) * known
        gram, moment = x.mT @ x, x.mT @ y
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for linear, curved in PENALTIES:
            penalty = x.new_full((features.shape[1], FEATURES), curved)
            penalty[:, :LINEAR] = linear
            factor = torch.linalg.cholesky(gram + penalty.flatten().diag())
            weights = torch.cholesky_solve(moment, factor)
            leverage = torch.linalg.solve_triangular(factor, x.mT, upper=False).square().sum(1)[..., None]
            own = (1 - 1 / count - leverage).clamp(min=LEAST)
            others = (y - (y - x @ weights) / own) * known  # around the level
            found.append(((y - others).square().sum((1, 2)), others, weights))
        errors, guesses, fitted = map(torch.stack, zip(*found, strict=True))
        best = errors.argmin(0), torch.arange(len(x), device=x.device)
        others, weights = guesses[best], fitted[best]
        intercept = level - middle @ weights
        guess = (others + level) * known * (count > 1)
    return guess.to(features.dtype), torch.cat([weights, intercept], 1).to(features.dtype)


def predict_additive(features: Tensor, weights: Tensor) -> Tensor:
    """Predictions `[T, M, L]` for rows whose cells have the features `[T, D, M, FEATURES]`."""
    with torch.autocast(features.device.type, enabled=False):
        return _rows(features) @ weights[:, :-1] + weights[:, -1:]


def _rows(features: Tensor) -> Tensor:
    """`[T, D, N, F]` as `[T, N, D * F]`."""
    return features.transpose(1, 2).flatten(2)
