"""The script that compares choices of the learner of tables."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from metabox.files import read_json, write_json


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return importlib.import_module("table_choices")


def test_what_is_measured_is_not_repeated_and_what_is_gone_is_dropped(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def measured(choice: dict[str, Any], of_columns: int, out: Path) -> dict[str, Any]:
        made.append(out.name)
        return {"options": script.told(choice), "nlls": [1.0, 2.5, 3.1] if choice else [1.0, 2.0, 3.0]}

    gone = {"choice": "rows", "options": "layout=rows", "nlls": [2.0, 2.0, 2.0]}
    write_json(tmp_path / "table-choices.json", {"steps": 5, "choices": [gone]})
    monkeypatch.setattr(script, "measured", measured)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # of the other tests
    words = ["table_choices.py", "--steps", "5", "--runs", str(tmp_path), "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*words, "--only", "columns", "one key head"])
    script.main()
    script.main()
    assert made == ["columns", "one-key-head"]
    rows = read_json(tmp_path / "table-choices.json")["choices"]
    assert [(row["choice"], row["options"]) for row in rows] == [("columns", ""), ("one key head", "key_heads=1")]
    assert (rows[1]["difference"], rows[1]["standard_error"]) == (0.2, 0.1528)


def test_a_step_of_a_choice_has_a_price(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "SIZES", {"n_rows": (16, 16), "n_columns": (1, 2)})
    own, of_columns = script.price(script.CHOICES["columns, muon"], 1)
    assert own > 0
    assert of_columns > 0
