"""What paired differences over seeds say of several methods, and the script that tunes all methods alike."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
from scipy import stats

from metabox import Learner, OuterLoop
from metabox.targets import Binary, Part, Parts, Reals


def holm() -> ModuleType:
    return importlib.import_module("verdicts")


def differences(mean: float, spread: float) -> list[float]:
    """Five with this mean and standard deviation."""
    return [mean + spread * z * math.sqrt(4 / 10) for z in (-2, -1, 0, 1, 2)]


@pytest.mark.parametrize(
    ("mean", "spread", "verdict"),
    [(5, 1, "helps"), (-5, 1, "hurts"), (0.1, 0.2, "no difference"), (0.1, 3, "undecided"), (3, 3, "undecided")],
)
def test_one_method_is_judged_by_its_t_interval(mean: float, spread: float, verdict: str) -> None:
    values = differences(mean, spread)
    found = holm().holm({"only": values})["only"]
    half = float(stats.t.ppf(0.975, 4)) * spread / math.sqrt(5)
    assert found == {"delta_percent": round(mean, 2), "half_interval": round(half, 2), "verdict": verdict}


def test_intervals_exclude_0_exactly_if_holm_rejects() -> None:
    spreads = {"a": 0.5, "b": 1.0, "c": 1.15, "d": 1.2, "e": 4.0}
    values = {name: differences(2.0, spread) for name, spread in spreads.items()}
    p = {name: float(stats.ttest_1samp(of, 0).pvalue) for name, of in values.items()}
    assert p["d"] < 0.05 / 2  # but "c", before it, is not below 0.05 / 3
    rejected, still = [], True
    for place, name in enumerate(sorted(p, key=p.__getitem__)):
        still = still and p[name] <= 0.05 / (5 - place)
        rejected += [name] * still
    found = holm().holm(values)
    assert [name for name, of in found.items() if of["verdict"] == "helps"] == rejected == ["a", "b"]
    assert all(of["half_interval"] > 2 for name, of in found.items() if name not in rejected)


def test_a_method_that_changes_nothing_makes_no_difference_and_one_seed_is_refused() -> None:
    assert holm().holm({"same": [0.0, 0.0, 0.0]})["same"]["verdict"] == "no difference"
    with pytest.raises(ValueError, match="two seeds at least of each method, got one or none of short"):
        holm().holm({"short": [1.0], "long": [1.0, 2.0]})


def test_reals_in_parts_get_a_fixed_noise() -> None:
    methods = importlib.import_module("methods")
    found = methods.fixed_noise(Parts([Part("yes", Binary(1)), Part("depth", Reals(1), (4, 4), 2.0)]))
    assert repr(found) == repr(Parts([Part("yes", Binary(1)), Part("depth", Reals(1, noise=1), (4, 4), 2.0)]))
    assert sum(methods.vector(3, 4)) == pytest.approx(4, abs=1e-3)


def test_a_set_is_tuned_trained_and_judged_and_finished_runs_are_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = importlib.import_module("methods")
    words = ["--sets", "recommendation", "--methods", "tuned sum", "random weights", "--seeds", "0", "1"]
    words += ["--share", "0.002", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["methods.py", *words])
    monkeypatch.setattr(methods, "LEARNING_RATES", (1.0, 3.0))
    monkeypatch.setattr(methods, "VECTORS", 2)
    methods.main()
    rows = json.loads((tmp_path / "out.json").read_text())["recommendation"]
    assert [row["method"] for row in rows] == ["sum", "tuned sum", "random weights"]
    assert [row["steps"] for row in rows] == [4, 4, 4]
    assert "verdict" not in rows[0]
    assert all(row["verdict"] in ("helps", "hurts", "no difference", "undecided") for row in rows[1:])
    assert {row["lr"] for row in rows} <= {3e-3, 9e-3}
    monkeypatch.setattr(methods.metabox, "run", None)
    methods.main()
    assert json.loads((tmp_path / "out.json").read_text())["recommendation"] == rows


def test_a_setting_whose_loss_is_not_finite_is_never_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = importlib.import_module("methods")

    def run(tasks: object, make: object, settings: OuterLoop, **options: object) -> Learner:
        if settings.lr > 0.009:
            raise FloatingPointError("the loss was not finite")
        return learner

    learner = methods.SETS["recommendation"].learner(methods.SETS["recommendation"].tasks().spec)
    monkeypatch.setattr(methods.metabox, "run", run)
    monkeypatch.setattr(methods, "scores", lambda *_: {"clicked": 0.5, "watched": 1.0, "liked": 0.5, "rating": 1.0})
    monkeypatch.setattr(methods, "log_of", lambda _: [{"seconds": 1.0}])
    monkeypatch.setattr(methods, "LEARNING_RATES", (4.0, 1.0))
    args = argparse.Namespace(share=0.01, runs=tmp_path)
    lr, _, runs = methods.chosen("recommendation", "dwa", args)
    assert lr == 1.0
    assert "not finite" in runs[0]["diverged"]
    assert methods.chosen("recommendation", "dwa", args)[2] == runs  # it is kept
