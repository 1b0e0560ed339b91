"""Speed beside another checkout: turns, ratios and means, and one small run against this checkout itself."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from metabox import discover

ROOT = Path(__file__).parents[2]


@pytest.fixture
def against(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return importlib.import_module("against")


def test_the_order_is_swapped_from_round_to_round(against: ModuleType) -> None:
    assert list(against.turns(("this", "other"), 3)) == [["this", "other"], ["other", "this"], ["this", "other"]]


def test_a_slow_recipe_gets_two_rounds(against: ModuleType) -> None:
    assert len(list(against.turns(("this", "other"), 5, seconds=0.0))) == 2


def test_ratios_are_taken_round_by_round(against: ModuleType) -> None:
    # Each round the machine is as slow for both sides.
    row = against.compared({"this": [1.0, 2.0, 4.0], "other": [3.0, 6.0, 12.0]}, "ms")
    assert row["times_as_fast"] == {"median": 3.0, "q1": 3.0, "q3": 3.0}
    assert row["of_the_fastest_rounds"] == 3.0
    assert (row["ms_this"]["median"], row["ms_other"]["median"], row["rounds"]) == (2.0, 6.0, 3)


def test_a_step_is_the_median_over_blocks_without_the_first(against: ModuleType) -> None:
    assert against._ms([[2, 50.0], [2, 2.0], [2, 4.0], [2, 90.0]]) == 2000.0


def test_means_are_geometric_by_kind_and_leave_out_what_did_not_run(against: ModuleType) -> None:
    def row(recipe: str, kind: str, ratio: float) -> dict[str, Any]:
        return {"recipe": recipe, "kind": kind, "times_as_fast": {"median": ratio}}

    rows = [row("a", "images", 0.5), row("b", "images", 2.0), row("c", "recurrent", 8.0)]
    found = against.means([*rows, {"recipe": "d", "kind": "images", "left_out": "learn2learn is missing"}])
    assert [(r["kind"], r["recipes"], r["times_as_fast"], r["least_of"]) for r in found] == [
        ("images", 2, 1.0, "a"),
        ("recurrent", 1, 8.0, "c"),
        ("all", 3, 2.0, "a"),
    ]


def test_every_recipe_that_is_compared_is_there_and_needs_no_files(against: ModuleType) -> None:
    here = discover.recipes()
    for name, (_, recipe, options) in against.RECIPES.items():
        assert recipe in here, name
        made_up = "--tasks" in options or "Omniglot" not in yaml.dump(yaml.safe_load(here[recipe].read_text()))
        assert made_up, name
    assert {*against.VALIDATED} <= {*against.RECIPES}


def test_a_folder_without_the_package_is_refused(against: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a checkout with the package metabox in it, got "):
        against.Worker(tmp_path, tmp_path / "worker")


def test_a_checkout_beside_itself_gives_a_ratio(
    against: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    speed, out = importlib.import_module("speed"), tmp_path / "against.json"
    monkeypatch.setattr(speed, "limits", dict)
    monkeypatch.setattr(against, "SECONDS", 0.1)
    monkeypatch.setattr(against, "STARTED", ("sinusoid-cnp", []))
    command = ["--against", str(ROOT), "--recipes", "sinusoid CNP", "--rounds", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["speed.py", *command])
    speed.main()
    result = json.loads(out.read_text())
    (row,) = result["steps"]
    assert row["rounds"] == 2
    assert 0 < row["times_as_fast"]["q1"] <= row["times_as_fast"]["median"] <= row["times_as_fast"]["q3"]
    assert [mean["kind"] for mean in result["means"]] == ["vectors and functions", "all"]
    about = result["steps_measured_with"]
    assert about["this"] == about["other"]
    assert not os.path.exists("runs")  # nothing is written where the script is called
