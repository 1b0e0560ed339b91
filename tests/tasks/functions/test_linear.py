"""Linear and sparse functions, networks and trees, and the oracles of those that have one."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from function_cases import UNLIKELY, tasks_of, whole
from scipy.special import logsumexp
from scipy.stats import chisquare, kstest, multivariate_normal, norm
from sklearn.tree import DecisionTreeRegressor

from metabox.seeding import Draws
from metabox.tasks import (
    DecisionTrees,
    LinearFunctions,
    TwoLayerNetworks,
)
from metabox.tasks.place import Place


def test_linear_functions_are_linear_with_standard_normal_weights():
    episodes = LinearFunctions(dim=5, n_support=6, n_query=4).sample(Place(2000, "train"))
    x, y = whole(episodes)
    assert episodes.oracle is None
    assert kstest(x.ravel(), "norm").pvalue > UNLIKELY
    w = np.linalg.pinv(x) @ y[..., None]
    np.testing.assert_allclose((x @ w)[..., 0], y, atol=1e-4)
    assert kstest(w.ravel(), "norm").pvalue > UNLIKELY


def test_sparse_functions_depend_on_a_random_set_of_coordinates():
    x, y = whole(LinearFunctions(dim=5, sparsity=2, n_support=6, n_query=4).sample(Place(2000, "train")))
    w = (np.linalg.pinv(x) @ y[..., None])[..., 0]
    kept = np.abs(w) > 1e-4
    assert (kept.sum(1) == 2).all()
    assert chisquare([kept[:, list(pair)].all(1).sum() for pair in combinations(range(5), 2)]).pvalue > UNLIKELY
    assert kstest(w[kept], "norm").pvalue > 1e-5


def gaussian_predictive(xs, ys, xq, yq, noise):
    """Log evidence of the support and log density of each query, w standard normal: by the covariance of y."""
    k = xs @ xs.T + noise**2 * np.eye(len(xs))
    evidence = multivariate_normal.logpdf(ys, cov=k) if len(ys) else 0.0
    gain = np.linalg.solve(k, xs @ xq.T).T if len(ys) else np.zeros((len(xq), 0))
    mean = gain @ ys
    variance = (xq * xq).sum(1) + noise**2 - (gain * (xq @ xs.T)).sum(1)
    return evidence, norm.logpdf(yq, mean, np.sqrt(variance))


def test_the_linear_oracle_is_the_predictive_of_bayesian_ridge_regression():
    episodes = LinearFunctions(dim=4, noise=0.5, n_support=(0, 9), n_query=(1, 3)).sample(Place(40, "train"))
    for t, (xs, ys, xq, yq) in enumerate(tasks_of(episodes)):
        wanted = gaussian_predictive(xs, ys, xq, yq, 0.5)[1].mean()
        assert episodes.oracle[t].item() == pytest.approx(wanted, rel=1e-6, abs=1e-7)


def test_the_sparse_oracle_averages_over_all_sets_of_coordinates():
    sampler = LinearFunctions(dim=5, sparsity=2, noise=0.5, n_support=(0, 9), n_query=(1, 3))
    episodes = sampler.sample(Place(40, "train"))
    for t, (xs, ys, xq, yq) in enumerate(tasks_of(episodes)):
        each = [gaussian_predictive(xs[:, s], ys, xq[:, s], yq, 0.5) for s in map(list, combinations(range(5), 2))]
        evidence, density = np.array([e for e, _ in each]), np.array([d for _, d in each])
        wanted = logsumexp(evidence[:, None] - logsumexp(evidence) + density, axis=0).mean()
        assert episodes.oracle[t].item() == pytest.approx(wanted, rel=1e-6, abs=1e-7)


def test_the_sparse_oracle_of_too_many_sets_is_left_out():
    assert LinearFunctions(sparsity=3, noise=1.0).sample(Place(1, "train")).oracle is not None  # 1,140 sets
    assert LinearFunctions(sparsity=5, noise=1.0).sample(Place(1, "train")).oracle is None  # 15,504
    assert LinearFunctions(noise=1.0, oracle=False).sample(Place(1, "train")).oracle is None


def test_training_draws_from_the_pool_and_the_other_splits_do_not():
    sampler = LinearFunctions(dim=3, pool=4, n_support=5, n_query=1)
    pool = sampler.pool_weights()
    assert pool.shape == (4, 3)
    for split in ("train", "val", "test"):
        x, y = whole(sampler.sample(Place(400, split, seed=7)))
        w = (np.linalg.pinv(x) @ y[..., None])[..., 0]
        near = np.abs(w[:, None] - pool).max(-1) < 1e-4
        assert near.any(1).all() == (split == "train")
        if split == "train":
            assert chisquare(near.sum(0)).pvalue > UNLIKELY
        else:
            assert not near.any()
    assert np.array_equal(LinearFunctions(dim=3, pool=4, noise=1.0).pool_weights(), pool)
    assert not np.array_equal(LinearFunctions(dim=3, pool=4, pool_seed=1).pool_weights(), pool)


@pytest.mark.parametrize("chunk", [1 << 22, 64])
def test_the_pools_oracle_is_the_average_over_the_pool(chunk, monkeypatch):
    monkeypatch.setattr("metabox.tasks.functions.linear.CHUNK", chunk)  # 64: a weight at a time
    sampler = LinearFunctions(dim=3, noise=0.5, pool=7, n_support=(0, 5), n_query=(1, 3))
    episodes = sampler.sample(Place(30, "train"))
    for t, (xs, ys, xq, yq) in enumerate(tasks_of(episodes)):
        evidence = np.array([norm.logpdf(ys, xs @ w, 0.5).sum() for w in sampler.pool_weights()])
        density = np.array([norm.logpdf(yq, xq @ w, 0.5) for w in sampler.pool_weights()])
        wanted = logsumexp(evidence[:, None] - logsumexp(evidence) + density, axis=0).mean()
        assert episodes.oracle[t].item() == pytest.approx(wanted, rel=1e-6, abs=1e-7)
    ridge = LinearFunctions(dim=3, noise=0.5, n_support=(0, 5), n_query=(1, 3)).sample(Place(30, "val")).oracle
    assert torch.equal(sampler.sample(Place(30, "val")).oracle, ridge)


def test_two_layer_networks_are_the_sum_over_hidden_units():
    sampler = TwoLayerNetworks(dim=3, hidden=5, n_support=4, n_query=2)
    x, y = whole(sampler.sample(Place(6, "val", index=1, seed=2)))
    draws = Draws("TwoLayerNetworks", 2, "val", 1, n_tasks=6)
    first, second = draws.normal("first", 3, 5), draws.normal("second", 5, 1)
    for t in range(6):
        for i in range(6):
            hidden = [max(0.0, float(x[t, i] @ first[t, :, j])) for j in range(5)]
            wanted = math.sqrt(2 / 5) * sum(float(second[t, j, 0]) * hidden[j] for j in range(5))
            assert y[t, i] == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_two_layer_networks_have_the_variance_of_linear_functions():
    _, y = whole(TwoLayerNetworks().sample(Place(300, "train")))
    assert (y**2).mean() == pytest.approx(20, rel=0.15)  # E|x|² = dim, as of w·x


def test_decision_trees_ask_depth_questions_from_the_root_down():
    sampler = DecisionTrees(dim=4, depth=3, n_support=20, n_query=10)
    x, y = whole(sampler.sample(Place(5, "val", index=1, seed=2)))
    draws = Draws("DecisionTrees", 2, "val", 1, n_tasks=5)
    asks, leaves = draws.integers("coordinate", 0, 3, 7), draws.normal("leaf", 8)
    for t in range(5):
        for i in range(30):
            level = [list(range(8))]  # the leaves still possible, halved by each answer
            node = 0
            for _ in range(3):
                left, right = level[-1][: len(level[-1]) // 2], level[-1][len(level[-1]) // 2 :]
                right_is_next = x[t, i, asks[t, node]] > 0
                level.append(right if right_is_next else left)
                node = 2 * node + (2 if right_is_next else 1)
            assert y[t, i] == pytest.approx(leaves[t, level[-1][0]], rel=1e-6)


def test_scikit_learns_trees_can_fit_decision_trees():
    x, y = whole(DecisionTrees(dim=3, depth=2, n_support=200, n_query=100).sample(Place(10, "train")))
    for t in range(10):
        assert len(np.unique(y[t])) <= 4
        signs = (x[t] > 0).astype(float)
        np.testing.assert_allclose(DecisionTreeRegressor().fit(signs, y[t]).predict(signs), y[t], rtol=1e-6)
