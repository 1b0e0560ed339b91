"""`FewShotRegressor` is a regressor of scikit-learn that also tells how sure it is."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from metabox import FewShotClassifier, FewShotRegressor
from metabox.learners import CNP, InContext
from metabox.model import Model
from metabox.targets import Bars, Classes, Reals, Target, TaskSpec
from metabox.testing import build

X = np.linspace(0, 6570, 12)[:, None]
Y = 5000 + np.sin(X[:, 0] / 1000)


def model(target: Target, width: int = 1) -> Model:
    return Model(build(lambda s: CNP(s, width=16), TaskSpec((width,), target, scale="support")))


TARGETS: dict[str, Target] = {"normal": Reals(1), "fixed noise": Reals(1, noise=0.1), "bars": Bars(1, 20)}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_checks_of_scikit_learn_pass_on_vectors() -> None:
    torch.manual_seed(0)
    learner = CNP(TaskSpec((32,), Reals(1), scale="support"), width=16).double()
    why = {"check_regressors_train": "the weights are random, so it fits nothing"}
    results = check_estimator(FewShotRegressor(Model(learner, padded=True)), expected_failed_checks=why, on_skip=None)
    assert sum(result["status"] == "passed" for result in results) > 45


@pytest.mark.parametrize("name", TARGETS)
def test_mean_deviation_quantiles_and_samples_are_of_one_distribution(name: str) -> None:
    regressor = FewShotRegressor(model(TARGETS[name])).fit(X, Y)
    mean, std = regressor.predict(X, return_std=True)
    assert np.array_equal(regressor.predict(X), mean)
    samples = regressor.sample(X, 4000)
    assert samples.shape == (12, 4000)
    np.testing.assert_allclose(samples.mean(1), mean, atol=5 * float(std.max()) / 60)
    np.testing.assert_allclose(samples.std(1), std, rtol=0.1)
    low, middle, high = regressor.predict_quantiles(X, (0.1, 0.5, 0.9)).T
    assert (low < middle).all()
    assert (middle < high).all()
    np.testing.assert_allclose((samples < high[:, None]).mean(1), 0.9, atol=0.03)
    assert np.array_equal(regressor.sample(X, 3, random_state=1), regressor.sample(X, 3, random_state=1))


def test_answers_are_in_the_units_of_y() -> None:
    first, other = FewShotRegressor(model(Reals(1))).fit(X, Y), FewShotRegressor(model(Reals(1)))
    other.fit(X / 1000 - 7, 3 * (Y - 5000))
    mean, std = first.predict(X, return_std=True)
    scaled, deviation = other.predict(X / 1000 - 7, return_std=True)
    np.testing.assert_allclose(scaled, 3 * (mean - 5000), atol=2e-2)
    np.testing.assert_allclose(deviation, 3 * std, rtol=1e-2)


def test_several_numbers_keep_their_axis(tmp_path: Path) -> None:
    regressor = FewShotRegressor(model(Reals(2))).fit(X, np.stack([Y, -Y], 1))
    assert regressor.predict(X).shape == (12, 2)
    assert regressor.predict_quantiles(X, (0.2, 0.8, 0.9)).shape == (12, 3, 2)
    assert regressor.sample(X, 5).shape == (12, 5, 2)
    again = FewShotRegressor.load(regressor.save(tmp_path / "r.metabox"))
    assert np.array_equal(again.predict(X), regressor.predict(X))


def test_examples_are_added_and_kept() -> None:
    regressor = FewShotRegressor(model(Reals(1))).partial_fit(X[:5], Y[:5]).partial_fit(X[5:], Y[5:])
    whole = FewShotRegressor(model(Reals(1))).fit(X, Y)
    assert np.array_equal(regressor.predict(X), whole.predict(X))
    assert np.array_equal(pickle.loads(pickle.dumps(whole)).predict(X), whole.predict(X))
    assert whole.n_features_in_ == 1
    with pytest.raises(NotFittedError):
        clone(whole).predict(X)


WRONG: dict[str, tuple[Callable[[Model], Any], str]] = {
    "NaN": (lambda m: FewShotRegressor(m).fit(X, np.full(12, np.nan)), "expected finite y"),
    "texts": (lambda m: FewShotRegressor(m).fit(X, list("abcdefghijkl")), "expected y as numbers"),
    "another width": (lambda m: FewShotRegressor(m).fit(np.zeros((12, 2)), Y), r"expected numbers \[N, 1\], got"),
    "two numbers for one": (lambda m: FewShotRegressor(m).fit(X, np.stack([Y, Y], 1)), r"expected targets \[12, 1\]"),
    "a quantile of 1": (lambda m: FewShotRegressor(m).fit(X, Y).predict_quantiles(X, (1.0,)), "between 0 and 1"),
    "no samples": (lambda m: FewShotRegressor(m).fit(X, Y).sample(X, 0), "n_samples"),
    "a model of classes": (
        lambda m: FewShotRegressor(Model(InContext(TaskSpec((1,), Classes(2)), width=16, heads=2))).fit(X, Y),
        "expected a model of real numbers",
    ),
    "a classifier of reals": (lambda m: FewShotClassifier(m).fit(X, Y > 5000), "expected a model of classes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_answered(name: str) -> None:
    use, said = WRONG[name]
    with pytest.raises(ValueError, match=said):
        use(model(Reals(1)))
