"""The script that trains and measures a learner of tables."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.naive_bayes import GaussianNB

from metabox import Model
from metabox.files import read_json


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return importlib.import_module("tables")


def test_a_table_is_scored_over_its_folds(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "CLASSES", {"iris": script.CLASSES["iris"]})
    (row,) = script.measured({"bayes": GaussianNB}, script.CLASSES, False)
    assert (row["table"], row["rows"], row["columns"], row["estimator"]) == ("iris", 150, 4, "bayes")
    assert row["accuracy"] > 0.9
    assert row["auc"] > 0.97
    (row,) = script.measured({"ridge": Ridge}, script.REALS, True)
    assert 0.3 < row["r2"] < 0.7


def test_a_second_stretch_goes_on_and_keeps_the_curve(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "CLASSES", {"iris": script.CLASSES["iris"]})
    monkeypatch.setattr(script, "OF_CLASSES", {"bayes": GaussianNB})
    monkeypatch.setattr(script, "MOST_ROWS", 60)
    monkeypatch.setattr(script, "FOLDS", 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # of the other tests
    small = ["--learner.cell=8", "--learner.width=16", "--learner.heads=1", "--learner.depth=1", "--outer.warmup=1"]
    more = [*small, "--outer.steps=3", "--outer.validate_every=1", "--outer.n_validation=2", "--n_test=2"]
    folders = ["--runs", str(tmp_path), "--results", str(tmp_path), "--threads", "1", "--recipe", "tabular-classes"]
    monkeypatch.setattr(sys, "argv", ["tables.py", *folders, "--minutes", "5", *more])
    script.main()
    result: Any = read_json(tmp_path / "tabular-classes.json")
    assert [row["steps"] for row in result["curve"]] == [3]
    assert {row["estimator"] for row in result["baselines"]} == {"bayes"}
    assert {row["estimator"] for row in result["curve"][0]["rows"]} == {"tabular-classes"}
    assert len(result["validation"]) == 3
    model = Model.load(tmp_path / "tabular-classes.metabox")
    assert (model.name, model.licence) == ("tabular-classes", "MIT")
    assert f"| tabular-classes | {result['curve'][0]['rows'][0]['auc']:.4g}" in model.card
    assert all(torch.equal(p, p.half().float()) for p in model.learner.parameters())
    before = json.dumps(result["baselines"])
    monkeypatch.setattr(sys, "argv", ["tables.py", *folders, "--minutes", "0"])
    script.main()
    again: Any = read_json(tmp_path / "tabular-classes.json")
    assert json.dumps(again["baselines"]) == before
    assert [row["steps"] for row in again["curve"]] == [3]
