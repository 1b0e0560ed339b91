"""Baselines of functions in context, each against the same task by task."""

from __future__ import annotations

import builtins
import math

import numpy as np
import pytest
import torch
from function_cases import tasks_of
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import Lasso, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.tree import DecisionTreeRegressor

from metabox.episodes import Examples
from metabox.tasks import (
    LinearFunctions,
)
from metabox.tasks.functions import baselines
from metabox.tasks.place import Place


def ragged(n_support=(0, 9), **kwargs):
    episodes = LinearFunctions(dim=4, noise=0.3, n_support=n_support, n_query=3, **kwargs).sample(Place(30, "train"))
    junk = torch.where(episodes.support.mask[..., None], episodes.support.x, torch.nan)
    y = torch.where(episodes.support.mask[..., None], episodes.support.y, torch.nan)
    support = Examples(x=junk, y=torch.cat([y, 2 * y], -1), mask=episodes.support.mask)
    return support, episodes.query.x, list(tasks_of(episodes))


def each_task(tasks, predict):
    """What `predict(xs, ys, xq)` says of each task by itself, 0 without a support: `[T, M]`."""
    return torch.from_numpy(
        np.stack([predict(xs, ys, xq) if len(ys) else np.zeros(len(xq)) for xs, ys, xq, _ in tasks])
    )


PLAIN = {
    "averaging": (baselines.averaging, {}, lambda xs, ys, xq: xq @ (xs * ys[:, None]).mean(0)),
    "least squares": (
        baselines.least_squares,
        {},
        lambda xs, ys, xq: xq @ np.linalg.lstsq(xs, ys, rcond=None)[0],
    ),
    "ridge": (
        baselines.ridge,
        {"penalty": 0.7},
        lambda xs, ys, xq: Ridge(alpha=0.7, fit_intercept=False).fit(xs, ys).predict(xq),
    ),
    "3 neighbours": (
        baselines.nearest_neighbours,
        {},
        lambda xs, ys, xq: KNeighborsRegressor(min(3, len(ys))).fit(xs, ys).predict(xq),
    ),
    "1 neighbour": (
        baselines.nearest_neighbours,
        {"k": 1},
        lambda xs, ys, xq: KNeighborsRegressor(1).fit(xs, ys).predict(xq),
    ),
    "lasso": (
        baselines.lasso,
        {"penalty": 0.05},
        lambda xs, ys, xq: Lasso(alpha=0.05, fit_intercept=False, max_iter=100_000).fit(xs, ys).predict(xq),
    ),
    "tree": (
        baselines.decision_tree,
        {"depth": 2},
        lambda xs, ys, xq: DecisionTreeRegressor(max_depth=2, random_state=0).fit(xs, ys).predict(xq),
    ),
    "boosted trees": (
        baselines.boosted_trees,
        {},
        lambda xs, ys, xq: GradientBoostingRegressor(random_state=0).fit(xs, ys).predict(xq),
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_batched_baseline_is_the_one_of_each_task_by_itself(name):
    baseline, options, plain = PLAIN[name]
    support, x, tasks = ragged()
    if name == "boosted trees":
        support, x, tasks = support[:6], x[:6], tasks[:6]
    wanted = each_task(tasks, plain)
    predicted = baseline(support, x, **options).double()
    assert predicted.shape == (len(x), 3, 2)
    torch.testing.assert_close(predicted[..., 0], wanted, rtol=1e-4, atol=1e-5)
    if name not in ("lasso", "tree", "boosted trees"):  # not linear in y, or fitted to both targets together
        torch.testing.assert_close(predicted[..., 1], 2 * wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_baselines_say_zero_without_a_support(name):
    baseline, options, _ = PLAIN[name]
    for n, mask in ((0, None), (2, torch.zeros(3, 2, dtype=torch.bool))):
        support = Examples(x=torch.randn(3, n, 4), y=torch.randn(3, n, 1), mask=mask)
        assert not baseline(support, torch.randn(3, 5, 4), **options).any()


@pytest.mark.parametrize("k", [0, 3, 9, 10, 15])
def test_least_squares_without_noise_errs_by_the_share_of_unseen_directions(k):
    """E (y - w·x)² = |w|² unseen = max(d - k, 0) for standard normal w and x: max(1 - k/d, 0) of the variance."""
    dim, tasks = 10, 4000
    episodes = LinearFunctions(dim=dim, n_support=k, n_query=1).sample(Place(tasks, "train"))
    error = (baselines.least_squares(episodes.support, episodes.query.x) - episodes.query.y).square().double() / dim
    wanted = max(1 - k / dim, 0)
    assert abs(error.mean() - wanted) < 4 * error.std() / math.sqrt(tasks) + 1e-6


def test_dmmse_is_the_posterior_mean_over_the_pool(monkeypatch):
    sampler = LinearFunctions(dim=4, noise=0.3, pool=6, n_support=(0, 5), n_query=3)
    episodes, pool = sampler.sample(Place(20, "train")), sampler.pool_weights()
    wanted = []
    for xs, ys, xq, _ in tasks_of(episodes):
        weight = np.array([np.exp(-0.5 * ((ys - xs @ w) / 0.3) ** 2).prod() for w in pool])
        wanted.append(xq @ (weight / weight.sum() @ pool))
    for chunk in (1 << 24, 1):
        monkeypatch.setattr(baselines, "CHUNK", chunk)
        got = baselines.dmmse(episodes.support, episodes.query.x, pool=torch.from_numpy(pool), noise=0.3)
        torch.testing.assert_close(got[..., 0].double(), torch.from_numpy(np.array(wanted)), rtol=1e-4, atol=1e-5)


def test_dmmse_of_a_huge_pool_is_ridge_regression():
    sampler = LinearFunctions(dim=2, noise=0.5, pool=200_000, oracle=False, n_support=3, n_query=4)
    episodes = sampler.sample(Place(12, "val"))
    pool = torch.from_numpy(sampler.pool_weights())
    got = baselines.dmmse(episodes.support, episodes.query.x, pool=pool, noise=0.5)
    wanted = baselines.ridge(episodes.support, episodes.query.x, penalty=0.25)
    torch.testing.assert_close(got, wanted, rtol=0.05, atol=0.05)
    few = baselines.dmmse(episodes.support, episodes.query.x, pool=pool[:20], noise=0.5)
    assert (few - wanted).abs().max() > 0.2


def test_ridge_with_the_noise_as_penalty_beats_other_penalties():
    episodes = LinearFunctions(dim=6, noise=1.0, n_support=6, n_query=1).sample(Place(4000, "train"))

    def error(penalty):
        return (baselines.ridge(episodes.support, episodes.query.x, penalty=penalty) - episodes.query.y).square()

    for other in (0.2, 5.0):
        gap = (error(other) - error(1.0)).double()
        assert gap.mean() > 4 * gap.std() / math.sqrt(4000)


def test_bad_input_to_a_baseline_is_named():
    support, x, _ = ragged()
    classes = Examples(x=support.x, y=torch.zeros(*support.mask.shape, dtype=torch.int64))
    for make, says in (
        (lambda: baselines.least_squares(classes, x), "real y"),
        (lambda: baselines.least_squares(support, x[..., 1:]), r"x \[T, M, d\]"),
        (lambda: baselines.ridge(support, x, penalty=0.0), "positive penalty"),
        (lambda: baselines.nearest_neighbours(support, x, k=0), "k of at least 1"),
        (lambda: baselines.dmmse(support, x, pool=torch.ones(3, 4), noise=1.0), "one target"),
    ):
        with pytest.raises(ValueError, match=says) as error:
            make()
        assert "expected" in str(error.value)


def test_without_scikit_learn_its_baselines_say_so(monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr("importlib.import_module", lambda name: real("no_such_module_" + name.replace(".", "_")))
    support, x, _ = ragged()
    for baseline in (baselines.lasso, baselines.decision_tree, baselines.boosted_trees):
        with pytest.raises(ValueError, match="pip install scikit-learn"):
            baseline(support, x)
