"""The script of Lake's challenge: his runs are read once, at the end, and never for a choice."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metabox.files import read_json
from metabox.tasks import LakeRuns


@pytest.mark.parametrize("validate", [True, False])
def test_a_choice_reads_background_alphabets_only_and_the_20_runs_are_read_after_training(
    validate: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import lake

    trained: list[str] = []
    seen: list[tuple[bool, str, int, int]] = []

    def scores(learner: Any, tasks: Any, split: str, n_tasks: int, views: int) -> dict[str, Any]:
        seen.append((isinstance(tasks, LakeRuns), split, n_tasks, views))
        return {"accuracy_percent": 97.5}

    monkeypatch.setattr(lake, "train", lambda recipe, out, options: trained.append(out.name))
    monkeypatch.setattr(lake, "load_run", lambda out: (None, SimpleNamespace(image_size=42)))
    monkeypatch.setattr(lake, "scores", scores)
    monkeypatch.setattr(lake, "cost", lambda out: {})
    monkeypatch.setattr(lake, "__file__", str(tmp_path / "lake.py"))
    monkeypatch.setattr(sys, "argv", ["lake.py", "--seeds", "1", *(["--validate"] if validate else [])])
    lake.main()
    drawn = [(False, "val" if validate else "test", 600, views) for views in (1, 9)]
    written = tmp_path / "results" / "lake.json"
    if validate:
        assert (seen, trained) == (drawn, [])
        assert not written.exists()
        return
    assert seen == [*drawn, (True, "test", 20, 1), (True, "test", 20, 9)]
    assert trained == ["omniglot-lake20-incontext-seed1"]
    assert [row["error_percent"] for row in read_json(written)["rows"][0]["accuracies"]] == [2.5] * 4
