"""`MultiTaskEstimator`: kinds read from the labels, missing ones, tasks by name, and predictions by part."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from metabox import Classes, Laplace, MultiTaskEstimator
from metabox.learners import HardSharing
from metabox.nn.backbones import MLP

SMALL = partial(HardSharing, backbone=partial(MLP, width=32))


def data(n: int = 300, seed: int = 0) -> tuple[np.ndarray, dict[str, Any]]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 3))
    depth = 1000 * (x[:, 0] - x[:, 1]) + 5000
    kind = np.where(x[:, 2] > 0, "wall", "floor").astype(object)
    return x, {"depth": depth, "kind": kind, "place": x[:, :2] * 0.01}


def test_targets_of_several_kinds_are_learned_with_labels_missing() -> None:
    x, y = data()
    random = np.random.default_rng(1)
    y["depth"][random.random(300) < 0.5] = np.nan
    y["kind"][random.random(300) < 0.3] = None
    estimator = MultiTaskEstimator(SMALL, steps=200, lr=1e-2).fit(x, y)
    new, truth = data(200, seed=2)
    got = estimator.predict(new)
    assert got.keys() == {"depth", "kind", "place"}
    assert got["depth"].shape == (200,)
    assert got["place"].shape == (200, 2)
    assert np.mean(np.abs(got["depth"] - truth["depth"])) < 0.15 * truth["depth"].std()
    assert np.mean(np.abs(got["place"] - truth["place"])) < 0.15 * truth["place"].std()
    assert np.mean(got["kind"] == truth["kind"]) > 0.93
    proba = estimator.predict_proba(new)
    assert proba.keys() == {"kind"}
    np.testing.assert_allclose(proba["kind"].sum(1), 1, rtol=1e-6)
    assert estimator.classes_["kind"].tolist() == ["floor", "wall"]


def test_the_network_is_told_of_which_task_a_row_is() -> None:
    random = np.random.default_rng(0)
    x, task = random.normal(size=(300, 2)), np.array(["up", "down", "level"])[np.arange(300) % 3]
    sign = {"up": 1.0, "down": -1.0, "level": 0.0}
    y = {"height": np.array([sign[t] for t in task]) * x[:, 0]}
    estimator = MultiTaskEstimator(SMALL, steps=400, lr=1e-2).fit(x, y, task)
    assert estimator.tasks_.tolist() == ["down", "level", "up"]
    new = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    got = estimator.predict(new, ["up", "down", "level"])["height"]
    np.testing.assert_allclose(got, [1, -1, 0], atol=0.3)
    with pytest.raises(ValueError, match=r"expected tasks among \['down', 'level', 'up'\], got \['over'\]"):
        estimator.predict(new, ["up", "down", "over"])
    with pytest.raises(ValueError, match="expected the task of each of 3 rows"):
        estimator.predict(new)


def test_a_kind_can_be_given_and_the_same_seed_gives_the_same_predictions() -> None:
    x, y = data(60)
    grade = np.where(np.arange(60) % 2, 2.0, 7.0)
    grade[:5] = np.nan
    kinds = {"grade": Classes(2), "depth": Laplace(1)}
    estimator = MultiTaskEstimator(SMALL, targets=kinds, steps=3)
    labels = {"grade": grade, "depth": y["depth"]}
    one, other = (clone(estimator).fit(x, labels) for _ in range(2))
    assert one.classes_["grade"].tolist() == [2.0, 7.0]
    assert set(one.predict(x)["grade"]) <= {2.0, 7.0}
    np.testing.assert_array_equal(one.predict(x)["depth"], other.predict(x)["depth"])
    assert isinstance(one.learner_.spec.target.parts[1].target, Laplace)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y": {}}, "expected y as a dictionary"),
        ({"y": np.zeros(20)}, "expected y as a dictionary"),
        ({"y": {"a": np.zeros(19)}}, "expected 20 labels of 'a'"),
        ({"y": {"a": np.full(20, np.nan)}}, "one at least"),
        ({"y": {"a": np.full(20, np.inf)}}, "expected finite labels"),
        ({"y": {"a": [None] * 20}}, "expected a label of 'a'"),
        ({"y": {"a": [["x", "y"]] * 20}}, "expected one class for each row"),
        ({"X": np.zeros((20, 2, 2))}, "expected X as"),
        ({"X": np.full((20, 2), np.nan)}, "expected"),
        ({"task": ["a"] * 19}, "expected the task of each of 20 rows"),
        ({"task": ["a"] * 19 + ["b"]}, "expected two rows of each task"),
        ({"targets": {"b": Classes(2)}}, "expected targets among the names of y"),
        ({"targets": {"a": Classes(2)}, "y": {"a": np.arange(20.0)}}, "at most 2 classes"),
        ({"steps": 0}, "steps"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], says: str) -> None:
    given = {"X": np.random.default_rng(0).normal(size=(20, 2)), "y": {"a": np.arange(20.0)}, "task": None}
    options = {name: change[name] for name in ("targets", "steps") if name in change}
    given |= {name: value for name, value in change.items() if name not in options}
    with pytest.raises(ValueError, match=says):
        MultiTaskEstimator(SMALL, **options).fit(**given)


def test_before_fit_there_is_nothing_to_predict() -> None:
    with pytest.raises(NotFittedError):
        MultiTaskEstimator().predict(np.zeros((1, 2)))
