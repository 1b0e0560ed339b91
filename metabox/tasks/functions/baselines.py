"""Predictors without meta-learning, to compare learners with: functions of the support and the query inputs.

All take a support `[T, N, d]` with real targets (padding is ignored) and x `[T, M, d]`, and return predictions
`[T, M, dy]`, which are 0 for a task without support. As in Garg et al. 2022, linear predictors have no intercept.
`lasso` and the trees fit one task at a time and need scikit-learn.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metabox.episodes import Examples

CHUNK = 1 << 24  # numbers in memory at once, for a pool


def _checked(support: Examples, x: Tensor) -> tuple[Tensor, Tensor]:
    """x and y of the support in float64, zeros in the padding."""
    s = support.blanked()
    if s.x.ndim != 3 or s.y.ndim != 3 or x.ndim != 3 or x.shape[::2] != s.x.shape[::2]:
        raise ValueError(
            f"expected a support with x [T, N, d] and real y [T, N, dy], and x [T, M, d], "
            f"got {list(s.x.shape)}, {list(s.y.shape)} and {list(x.shape)}"
        )
    return s.x.double(), s.y.double()


def averaging(support: Examples, x: Tensor) -> Tensor:
    """Linear, with weights (1/n) Σ y_i x_i (the "averaging" of Garg et al. 2022)."""
    sx, sy = _checked(support, x)
    n = support.mask.sum(1).clamp(min=1)[:, None, None]
    best: Tensor = (x.double() @ (sx.mT @ sy) / n).to(x.dtype)
    return best


def least_squares(support: Examples, x: Tensor) -> Tensor:
    """Linear, by least squares; of the smallest norm if there are several solutions."""
    sx, sy = _checked(support, x)
    best: Tensor = (x.double() @ (torch.linalg.pinv(sx) @ sy)).to(x.dtype)
    return best


def ridge(support: Examples, x: Tensor, *, penalty: float) -> Tensor:
    """Linear, least squares plus `penalty` times Σ w_i²: the posterior mean for w ~ N(0, I) if penalty is noise².

    Raises:
        ValueError: if the penalty is not positive.
    """
    if penalty <= 0:
        raise ValueError(f"expected a positive penalty, got {penalty}; least_squares has none")
    sx, sy = _checked(support, x)
    a = sx.mT @ sx + penalty * torch.eye(sx.shape[2], dtype=sx.dtype, device=sx.device)
    best: Tensor = (x.double() @ torch.linalg.solve(a, sx.mT @ sy)).to(x.dtype)
    return best


def nearest_neighbours(support: Examples, x: Tensor, *, k: int = 3) -> Tensor:
    """The mean target of the k nearest support points, or of all if there are fewer.

    Raises:
        ValueError: if k is below 1.
    """
    if k < 1:
        raise ValueError(f"expected k of at least 1, got {k}")
    sx, sy = _checked(support, x)
    distance = torch.cdist(x.double(), sx).masked_fill(~support.mask[:, None], torch.inf)
    nearest = distance.topk(min(k, sx.shape[1]), largest=False)
    real = nearest.values.isfinite().double()  # [T, M, k]
    tasks = torch.arange(len(sx), device=sx.device)[:, None, None]
    total = (sy[tasks, nearest.indices] * real[..., None]).sum(2)
    return (total / real.sum(-1, keepdim=True).clamp(min=1)).to(x.dtype)


def dmmse(support: Examples, x: Tensor, *, pool: Tensor, noise: float) -> Tensor:
    """w·x for the posterior mean of w among the finite pool `[P, d]` (Raventós et al. 2023).

    Raises:
        ValueError: if the noise is not positive, or the pool is not `[P, d]`.
    """
    sx, sy = _checked(support, x)
    if noise <= 0 or pool.ndim != 2 or pool.shape[1] != sx.shape[2] or sy.shape[2] != 1:
        raise ValueError(
            f"expected noise above 0, one target and a pool [P, {sx.shape[2]}], got noise {noise}, "
            f"{sy.shape[2]} targets and {list(pool.shape)}"
        )
    pool = pool.to(sx)
    chunks = pool.split(max(1, CHUNK // max(1, sx.shape[0] * sx.shape[1])))
    fits = [-0.5 * ((sy - sx @ chunk.T) / noise).square().sum(1) for chunk in chunks]  # padding fits any w
    w = torch.cat(fits, dim=1).softmax(1) @ pool
    return (x.double() @ w[..., None]).to(x.dtype)


def lasso(support: Examples, x: Tensor, *, penalty: float = 0.01) -> Tensor:
    """Linear, half the mean squared error plus `penalty` times Σ abs(w_i): scikit-learn's Lasso.

    Raises:
        ValueError: without scikit-learn.
    """
    linear_model = _sklearn("linear_model")
    return _one_by_one(
        support, x, lambda: linear_model.Lasso(alpha=penalty, fit_intercept=False, max_iter=100_000), many=True
    )


def decision_tree(support: Examples, x: Tensor, *, depth: int | None = 4) -> Tensor:
    """A greedily grown regression tree of at most `depth` levels: scikit-learn's DecisionTreeRegressor.

    Raises:
        ValueError: without scikit-learn.
    """
    tree = _sklearn("tree")
    return _one_by_one(support, x, lambda: tree.DecisionTreeRegressor(max_depth=depth, random_state=0), many=True)


def boosted_trees(support: Examples, x: Tensor) -> Tensor:
    """Gradient boosting of trees, by scikit-learn (Garg et al. 2022 use XGBoost).

    Raises:
        ValueError: without scikit-learn.
    """
    ensemble = _sklearn("ensemble")
    return _one_by_one(support, x, lambda: ensemble.GradientBoostingRegressor(random_state=0), many=False)


def _sklearn(module: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ValueError(
            "expected scikit-learn for this baseline, found none; pip install scikit-learn, "
            "or use least_squares, ridge or nearest_neighbours"
        ) from error


def _one_by_one(support: Examples, x: Tensor, make: Callable[[], Any], *, many: bool) -> Tensor:
    """Fit and predict one task at a time; `many`: the model takes several targets at once."""
    sx, sy = (part.cpu().numpy() for part in _checked(support, x))
    mask, query = support.mask.cpu().numpy(), x.double().cpu().numpy()
    out = torch.zeros(*x.shape[:2], sy.shape[2], dtype=torch.float64)
    for t in mask.any(1).nonzero()[0]:
        for column in [slice(None)] if many else range(sy.shape[2]):
            fitted = make().fit(sx[t][mask[t]], sy[t][mask[t]][:, column])
            out[t, :, column] = torch.from_numpy(fitted.predict(query[t]).reshape(out[t, :, column].shape))
    return out.to(x)
