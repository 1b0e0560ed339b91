"""The script that scores learners on tasks that were never trained."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return importlib.import_module("zero_shot")


def test_a_row_is_of_the_tasks_that_are_held_out(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = replace(script.SETTINGS["regressions"], steps=2, n_validation=2, validate_every=2, warmup=0)
    monkeypatch.setitem(script.SETTINGS, "regressions", quick)
    seen: list[set[str]] = []
    evaluate = script.evaluate
    monkeypatch.setattr(script, "evaluate", lambda *a, **k: seen.append(set((s := evaluate(*a, **k)).tasks)) or s)
    args = argparse.Namespace(runs=tmp_path, seeds=[0], data_root=None)
    row = script.row("regressions", "heads", "text", args)
    held_out = {f"task-{k}" for k in range(64, 80)}
    assert seen[0] == held_out
    assert not seen[1] & held_out
    assert row["gap_to_oracle"] > 0.5
    assert (row["seeds"], row["gap_to_oracle_interval_95"]) == (1, None)
    assert script.row("regressions", "heads", "nothing", args)["parameters"] < row["parameters"]
    assert script.facts("regressions", None)["noise_variance"] == 0.09
