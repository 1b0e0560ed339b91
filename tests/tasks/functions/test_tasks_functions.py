"""Function tasks, baselines, memories and images: against transcriptions, closed forms and other libraries."""

from __future__ import annotations

import builtins
import math
from itertools import combinations
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import chisquare, kstest, multivariate_normal, norm
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import Lasso, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.tree import DecisionTreeRegressor

from metabox.data.class_images import ClassImages
from metabox.episodes import Examples
from metabox.seeding import Draws
from metabox.tasks import (
    AssociativeRecall,
    Copy,
    DecisionTrees,
    Glyphs,
    Harmonics,
    ImageCompletion,
    LinearFunctions,
    Sawtooth,
    Sinusoids,
    Steps,
    TwoLayerNetworks,
)
from metabox.tasks.functions import baselines
from metabox.tasks.nway import NWayKShot
from metabox.tasks.place import Place

UNLIKELY = 1e-4  # the draws are fixed, so a test that passes once passes always


def whole(episodes):
    """x and y of support and query together, `[T, N + M, ...]`, in float64; y without its last axis."""
    s, q = episodes.support, episodes.query
    return torch.cat([s.x, q.x], 1).double().numpy(), torch.cat([s.y, q.y], 1)[..., 0].double().numpy()


def tasks_of(episodes):
    """x and y of each task's support and query, in float64, without padding."""
    for t in range(len(episodes)):
        parts = []
        for e in (episodes.support, episodes.query):
            parts += [e.x[t][e.mask[t]].double().numpy(), e.y[t][e.mask[t]].double().numpy()[:, 0]]
        yield parts


# ------------------------------------------------------------------ functions of a few inputs


def test_sinusoids_are_those_of_finn_et_al():
    """Fit a sin(x - b) = a cos(b) sin(x) - a sin(b) cos(x), which is linear: no residual, and a, b of their ranges."""
    x, y = whole(Sinusoids().sample(Place(2000, "train")))
    assert x.shape == (2000, 20, 1)
    assert kstest(x.ravel(), "uniform", (-5, 10)).pvalue > UNLIKELY
    design = np.concatenate([np.sin(x), -np.cos(x)], -1)
    w = np.stack([np.linalg.lstsq(design[t], y[t], rcond=None)[0] for t in range(len(x))])
    np.testing.assert_allclose((design * w[:, None]).sum(-1), y, atol=1e-5)
    assert kstest(np.hypot(*w.T), "uniform", (0.1, 4.9)).pvalue > UNLIKELY
    assert kstest(np.arctan2(w[:, 1], w[:, 0]), "uniform", (0, np.pi)).pvalue > UNLIKELY


def test_harmonics_have_two_frequencies_one_twice_the_other():
    """Search the frequency; at the right one a linear fit of four terms leaves no residual."""
    x, y = whole(Harmonics(n_support=30).sample(Place(6, "train")))
    for t in range(6):
        residuals = []
        for w in np.linspace(5, 7, 2001):
            angle = w * x[t]
            design = np.concatenate([np.sin(angle), np.cos(angle), np.sin(2 * angle), np.cos(2 * angle)], 1)
            residuals.append(np.abs(design @ np.linalg.lstsq(design, y[t], rcond=None)[0] - y[t]).max())
        assert min(residuals) < 5e-3 * np.abs(y[t]).max()  # the frequency tried is within 0.0005 of the true one
        assert np.median(residuals) > 0.05 * np.abs(y[t]).max()


def test_inputs_of_harmonics_are_normal_around_a_centre_of_the_task():
    x, _ = whole(Harmonics(n_support=30).sample(Place(500, "train")))
    centres = x.mean((1, 2))
    assert kstest(centres, "uniform", (-4, 8)).pvalue > UNLIKELY
    spread = (x - centres[:, None, None]) * math.sqrt(40 / 39)
    assert kstest(spread[:, 0, 0], "norm").pvalue > UNLIKELY


def test_a_sawtooth_rises_at_its_frequency_and_falls_by_one():
    x, y = whole(Sawtooth(frequency=(2.0, 4.0), n_support=200, n_query=200).sample(Place(50, "train")))
    assert 0 <= y.min() <= y.max() < 1
    for t in range(len(x)):
        order = np.argsort(x[t, :, 0])
        gap, rise = np.diff(x[t, order, 0]), np.diff(y[t, order])
        slope = np.median(rise[gap > 1e-4] / gap[gap > 1e-4])
        assert 2 <= abs(slope) <= 4
        turns = (rise - slope * gap).round(3)
        assert set(np.abs(turns)) == {0.0, 1.0}
    starts = Sawtooth(frequency=1.0, low=0.0, high=1e-6).sample(Place(2000, "train")).query.y[:, 0, 0]
    assert kstest(starts.numpy(), "uniform").pvalue > UNLIKELY


def test_a_sawtooth_of_two_inputs_varies_along_one_direction():
    x, y = whole(Sawtooth(frequency=0.2, dim=2, low=0.0, high=1.0, n_support=0).sample(Place(30, "train")))
    within = [t for t in range(len(x)) if np.ptp(y[t]) < 0.5]  # one tooth, where it is linear
    assert len(within) > 10
    for t in within:
        design = np.concatenate([x[t], np.ones((len(x[t]), 1))], 1)
        (*gradient, _), residual, *_ = np.linalg.lstsq(design, y[t], rcond=None)
        assert np.hypot(*gradient) == pytest.approx(0.2, rel=1e-4)
        assert residual[0] < 1e-10


def test_steps_have_as_many_levels_as_steps_and_one():
    x, y = whole(Steps(n_steps=(0, 3), n_support=500, n_query=500).sample(Place(400, "train")))
    counts, first = np.zeros(4), []
    for t in range(len(x)):
        along = y[t, np.argsort(x[t, :, 0])]
        levels = along[np.concatenate([[True], np.diff(along) != 0])]
        counts[len(levels) - 1] += 1
        first.append(levels[0])
    assert (np.abs(counts - 100) < 5 * math.sqrt(400 * 3 / 16)).all()
    assert kstest(first, "norm").pvalue > UNLIKELY


@pytest.mark.parametrize("make", [Sinusoids, Harmonics, Sawtooth, Steps])
def test_noise_is_added_to_every_target(make):
    (_, clean), (_, noisy) = (whole(make(noise=noise).sample(Place(200, "train"))) for noise in (0.0, 0.3))
    noise = noisy - clean
    noise = noise[noise != 0]  # padding
    assert kstest(noise[:5000] / 0.3, "norm").pvalue > UNLIKELY


# ------------------------------------------------------------------ linear functions


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


# ------------------------------------------------------------------ baselines


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


# ------------------------------------------------------------------ memories


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_query_of_associative_recall_is_answered_in_the_support(split):
    sampler = AssociativeRecall(length=(2, 6), test_length=(8, 12), n_query=2, key_bits=5, value_bits=4)
    episodes = sampler.sample(Place(300, split))
    s, q = episodes.support, episodes.query
    low, high = (8, 12) if split == "test" else (2, 6)
    assert set(s.mask.sum(1).tolist()) == set(range(low, high + 1))
    for t in range(300):
        pairs = {
            tuple(k): tuple(v) for k, v in zip(s.x[t][s.mask[t]].tolist(), s.y[t][s.mask[t]].tolist(), strict=True)
        }
        assert len(pairs) == s.mask[t].sum(), "keys differ"
        asked = [tuple(k) for k in q.x[t].tolist()]
        assert len(set(asked)) == 2
        assert [pairs[k] for k in asked] == [tuple(v) for v in q.y[t].tolist()]
    assert not episodes.oracle.any()
    assert abs(s.y[s.mask].mean() - 0.5) < 0.05
    assert abs(s.x[s.mask].mean() - 0.5) < 0.05


def test_every_place_of_associative_recall_is_asked_equally_often():
    episodes = AssociativeRecall(length=4).sample(Place(2000, "train"))
    place = (episodes.support.x == episodes.query.x).all(-1).int().argmax(1)
    assert chisquare(place.bincount()).pvalue > UNLIKELY


def test_copy_asks_for_all_vectors_in_order():
    episodes = Copy(length=(1, 20), test_length=(60, 120)).sample(Place(100, "test"))
    s, q = episodes.support, episodes.query
    assert torch.equal(s.y, q.y)
    assert torch.equal(s.x, q.x)
    assert torch.equal(s.mask, q.mask)
    assert s.x.shape[2] == 7  # bits for 120 places
    place = (s.x * 2.0 ** torch.arange(7)).sum(-1)
    for t in range(100):
        n = int(s.mask[t].sum())
        assert 60 <= n <= 120
        assert torch.equal(place[t, :n], torch.arange(float(n)))
    assert abs(s.y[s.mask].mean() - 0.5) < 0.02
    train = Copy(length=(1, 20), test_length=(60, 120)).sample(Place(400, "train"))
    assert set(train.support.mask.sum(1).tolist()) == set(range(1, 21))
    assert train.support.x.shape[2] == 7


# ------------------------------------------------------------------ images


def test_pixels_are_those_of_the_image_at_their_place():
    glyphs = Glyphs(image_size=12)
    sampler = ImageCompletion(glyphs, n_support=(0, 30), n_query=(1, 30), share_sizes=1)
    episodes = sampler.sample(Place(10, "val"))
    assert sampler.spec.target.size == 1
    for t in range(10):
        seen = []
        for examples, start in ((episodes.support, 0), (episodes.query, episodes.support.y.shape[1])):
            for i in examples.mask[t].nonzero()[:, 0].tolist():
                row, column = ((examples.x[t, i] + 1) / 2 * 11).round().long().tolist()
                identity = int(episodes.origin[t, start + i])
                image = glyphs.images.gather(np.array([identity >> 32]), np.array([identity & (2**32 - 1)]), "cpu")
                assert examples.y[t, i, 0] == pytest.approx(float(image[0, 0, row, column]) / 255, abs=1e-6)
                seen.append((row, column))
        assert len(set(seen)) == len(seen), "no pixel twice, in support and query together"
        split = glyphs.images.splits["val"]
        assert split[0] <= identity >> 32 <= split[-1]


def test_all_pixels_are_asked_for_where_no_number_is_given():
    episodes = ImageCompletion(Glyphs(image_size=9), low=0.0, n_support=5).sample(Place(3, "train"))
    assert episodes.query.y.shape == (3, 81, 1)
    assert episodes.query.mask.all()
    grid = torch.linspace(0, 1, 9)
    wanted = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1).view(81, 2)
    torch.testing.assert_close(episodes.query.x, wanted.expand(3, -1, -1))
    assert episodes.query.y.min() >= 0
    assert episodes.query.y.max() == 1  # ink


def test_every_pixel_is_shown_equally_often():
    episodes = ImageCompletion(Glyphs(image_size=8), n_support=4).sample(Place(1000, "train"))
    place = ((episodes.support.x + 1) / 2 * 7).round().long()
    assert chisquare((place[..., 0] * 8 + place[..., 1]).flatten().bincount(minlength=64)).pvalue > UNLIKELY


class Striped(NWayKShot):
    """Colour images of two rows: 10 c + i in the first channel, the column in the second, the row in the third."""

    def load(self):
        class Images(ClassImages):
            sizes, groups, image_shape, fingerprint = np.array([2, 4]), None, (3, 2, 4), "striped"
            splits: ClassVar = {"train": np.array([0, 1])}

            def pictures(self, ids, device):
                image = torch.zeros(len(ids), 3, 2, 4, dtype=torch.uint8)
                image[:, 0] = (10 * (ids >> 32) + (ids & 255))[:, None, None]
                image[:, 1], image[:, 2] = torch.arange(4), torch.arange(2)[:, None]
                return image

        return Images()


def test_images_of_several_channels_have_as_many_targets():
    sampler = ImageCompletion(Striped(), n_support=8, share_sizes=1)
    episodes = sampler.sample(Place(600, "train"))
    sampler.spec.check_episodes(episodes)
    for part in (episodes.support, episodes.query):
        identity, column, row = (part.y * 255).round().long().unbind(-1)
        assert (identity == identity[:, :1]).all()
        torch.testing.assert_close(part.x[..., 0], row * 2.0 - 1)
        torch.testing.assert_close(part.x[..., 1], column * 2 / 3 - 1)
    counts = identity[:, 0].bincount(minlength=14)
    # Classes are equally likely, and the drawings of a class are.
    assert chisquare(counts[[0, 1, 10, 11, 12, 13]], 600 * np.array([2, 2, 1, 1, 1, 1]) / 8).pvalue > UNLIKELY


def test_more_points_than_pixels_are_refused():
    for options in ({"n_support": 9}, {"n_support": 5, "n_query": 4}):
        with pytest.raises(ValueError, match="expected at most 8 points"):
            ImageCompletion(Striped(), **options).sample(Place(1, "train"))
    ImageCompletion(Striped(), n_support=5, n_query=(1, 4), max_points=8).sample(Place(1, "train"))


def test_a_split_without_images_is_named():
    with pytest.raises(ValueError, match="expected a split with classes among"):
        ImageCompletion(Striped(), n_support=1).sample(Place(1, "test"))


def test_grey_values_of_black_and_white_are_exactly_zero_and_one():
    assert torch.tensor(255.0) * (1 / 255) == 1
