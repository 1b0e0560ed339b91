"""State-space models: their moments, and both references against statsmodels' filter and a dense normal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from metabox import evaluate
from metabox.learners import LSTM
from metabox.tasks import KalmanFiltering
from metabox.tasks.functions.state_space import Systems, bayes, log_likelihoods
from metabox.tasks.place import Place
from metabox.testing import build

FAMILY = KalmanFiltering(hidden=(1, 3), noise=(0.2, 0.6), family=5, n_support=(0, 12))
PLACE = Place(40, "test", seed=3)


def whole(episodes) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """u and y of each task's steps, the query last, in float64."""
    found = []
    for name in ("x", "y"):
        parts = zip(episodes.support.mask, getattr(episodes.support, name), getattr(episodes.query, name), strict=True)
        found.append([torch.cat([s[mask], q])[:, 0].double().numpy() for mask, s, q in parts])
    return found[0], found[1]


def of_statsmodels(systems: Systems, i: int, u: np.ndarray, y: np.ndarray) -> np.ndarray:
    """log p of each step, by another library."""
    filters = pytest.importorskip("statsmodels.tsa.statespace.kalman_filter")
    a, b, c, q, r, p = (part[i] for part in systems)
    d = len(b)
    other = filters.KalmanFilter(k_endog=1, k_states=d, k_posdef=d)
    other.bind(y)
    other["transition"], other["design"], other["selection"] = a, c[None], np.eye(d)
    other["state_cov"], other["obs_cov"] = q * q * np.eye(d), np.array([[r * r]])
    other["state_intercept"] = np.outer(b, np.append(u[1:], 0))  # it moves the state from a step to the next
    other.initialize_known(b * u[0], a @ p @ a.T + q * q * np.eye(d))
    return other.filter().llf_obs


def dense(systems: Systems, i: int, u: np.ndarray, y: np.ndarray) -> float:
    """log p of all steps together: a normal whose mean and covariance are written out."""
    a, b, c, q, r, p = (part[i] for part in systems)
    n, powers = len(u), [np.eye(len(b))]
    for _ in range(n):
        powers.append(a @ powers[-1])
    mean = [sum(c @ powers[t - k] @ b * u[k] for k in range(t + 1)) for t in range(n)]
    covariance = r * r * np.eye(n)
    for s in range(n):
        for t in range(n):
            shared = powers[s + 1] @ p @ powers[t + 1].T
            shared = shared + q * q * sum(powers[s - k] @ powers[t - k].T for k in range(min(s, t) + 1))
            covariance[s, t] += c @ shared @ c
    return float(multivariate_normal(mean, covariance).logpdf(y))


@pytest.mark.parametrize("inputs", [True, False])
def test_the_filter_is_that_of_another_library_and_a_dense_normal(inputs: bool) -> None:
    sampler = KalmanFiltering(hidden=(1, 3), noise=(0.2, 0.6), inputs=inputs, family=5)
    u, y = np.random.default_rng(0).normal(size=(2, 4, 9))
    got = log_likelihoods(sampler.prior, u, y)
    for t in range(4):
        for i in range(5):
            np.testing.assert_allclose(got[t, i], of_statsmodels(sampler.prior, i, u[t], y[t]), rtol=1e-10)
            np.testing.assert_allclose(got[t, i].sum(), dense(sampler.prior, i, u[t], y[t]), rtol=1e-10)
    np.testing.assert_array_equal(
        log_likelihoods(sampler.prior.at([2, 0, 1, 4]), u, y, paired=True), got[range(4), [2, 0, 1, 4]]
    )


def test_the_oracle_is_the_mixture_of_all_filters_weighted_by_the_support() -> None:
    episodes = FAMILY.sample(PLACE)
    FAMILY.spec.check_episodes(episodes)
    lengths = episodes.support.mask.sum(1)
    assert {0, 12} <= set(lengths.tolist())
    for u, y, oracle in zip(*whole(episodes), episodes.oracle, strict=True):
        each = np.array([of_statsmodels(FAMILY.prior, i, u, y) for i in range(5)])
        wanted = logsumexp(each.sum(1)) - logsumexp(each[:, :-1].sum(1))
        assert float(oracle) == pytest.approx(wanted, rel=1e-6)


def test_the_references_are_the_oracles_of_the_same_tasks() -> None:
    sampler = KalmanFiltering(family=5, n_support=8)
    got = sampler.references(PLACE)
    for oracle in ("known", "bayes"):
        tasks = KalmanFiltering(family=5, n_support=8, oracle=oracle)
        torch.testing.assert_close(
            tasks.sample(PLACE).oracle.double(), torch.from_numpy(got[oracle][:, -1]), rtol=1e-6, atol=1e-6
        )
    assert got["known"].shape == (40, 9)
    assert not got["bayes_error"].any()
    many = sampler.references(Place(2000, "test"))
    assert many["known"].mean() > many["bayes"].mean() > many["bayes"][:, 0].mean()
    assert (many["known"] - many["bayes"]).mean(0)[-1] < (many["known"] - many["bayes"]).mean(0)[1]


def test_without_a_family_the_average_is_over_draws_of_the_prior_with_its_error() -> None:
    few, many = (
        KalmanFiltering(hidden=1, family=None, family_seed=1, prior_draws=n, n_support=20) for n in (400, 20000)
    )
    got, wanted = few.references(PLACE), many.references(PLACE)
    assert (got["known"] == wanted["known"]).all()
    off = (got["bayes"] - wanted["bayes"]) / np.hypot(got["bayes_error"], wanted["bayes_error"])
    assert 0.5 < np.sqrt((off**2).mean()) < 1.5
    assert wanted["bayes_error"].mean() < got["bayes_error"].mean() / 5


def test_tasks_are_stationary_with_a_signal_of_variance_one() -> None:
    sampler = KalmanFiltering(hidden=(1, 4), noise=0.3, family=None, n_support=30, oracle="none")
    y = torch.cat([sampler.sample(Place(4000, "train")).support.y, sampler.sample(Place(4000, "test")).support.y])
    assert y.var(0).mean() == pytest.approx(1.09, abs=0.02)
    assert abs(float(y[:, 0].var() - y[:, -1].var())) < 0.1
    systems = sampler.systems(PLACE.draws("systems"))
    radius = np.abs(np.linalg.eigvals(systems.a)).max(1)
    assert 0.5 < radius.min() < radius.max() < 0.95
    sizes = (systems.b != 0).sum(1)
    assert set(sizes) == {1, 2, 3, 4}


def test_training_tasks_have_an_oracle_only_if_it_is_asked_for() -> None:
    assert FAMILY.sample(Place(3, "train")).oracle is None
    assert KalmanFiltering(train_oracle=True).sample(Place(3, "train")).oracle is not None
    assert KalmanFiltering(oracle="none").sample(Place(3, "test")).oracle is None
    assert bool((KalmanFiltering(inputs=False).sample(Place(3, "test")).support.x == 1).all())


def test_a_learner_is_scored_by_its_gap_to_the_oracle() -> None:
    got = evaluate(build(LSTM, replace(FAMILY.spec)), FAMILY, n_tasks=20)
    assert got.mean("gap_to_oracle") > 0
    assert bayes(FAMILY.prior, *np.zeros((2, 3, 4)))[0].shape == (3, 4)
