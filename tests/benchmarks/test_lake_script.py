"""The script of Lake's challenge: his runs are read once, at the end, and never for a choice."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metabox import discover
from metabox.files import read_json
from metabox.gate import read
from metabox.tasks import LakeRuns


@pytest.mark.parametrize("choose", [True, False])
def test_a_choice_holds_alphabets_out_and_reads_no_exam_and_the_exams_are_of_networks_trained_on_all(
    choose: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import lake
    import timed_runs

    trained: list[tuple[str, bool]] = []
    seen: list[tuple[bool, str, int, int]] = []

    def scores(learner: Any, tasks: Any, split: str, n_tasks: int, views: int) -> dict[str, Any]:
        seen.append((isinstance(tasks, LakeRuns), split, n_tasks, views))
        return {"views": views, "accuracy_percent": 100.0 - len(trained), "interval_95_percent": 0.5}

    monkeypatch.setattr(lake, "train", lambda recipe, out, options: trained.append((out.name, "lake" in options)))
    monkeypatch.setattr(lake, "load_run", lambda out: (None, SimpleNamespace(image_size=42)))
    monkeypatch.setattr(timed_runs, "scores", scores)
    monkeypatch.setattr(lake, "cost", lambda out: {})
    monkeypatch.setattr(lake, "__file__", str(tmp_path / "lake.py"))
    monkeypatch.setattr(sys, "argv", ["lake.py", "--seeds", "1", "2", *(["--choose"] if choose else [])])
    lake.main()
    split = "val" if choose else "test"
    drawn = [(False, split, 600, views) for views in (1, 9)]
    assert seen == 2 * (drawn if choose else [*drawn, (True, "test", 20, 1), (True, "test", 20, 9)])
    assert trained == [(f"omniglot-lake20-incontext{'-choice' * choose}-seed{seed}", choose) for seed in (1, 2)]
    content = read_json(tmp_path / "results" / f"lake{'-choice' * choose}.json")
    assert {row["split"] for row in content["rows"]} == {split}
    exams = {name for name in ("drawn_at_random", "runs") if name in content["rows"][0]}
    assert exams == ({"drawn_at_random"} if choose else {"drawn_at_random", "runs"})
    if not choose:
        assert [(row["claim"]["measured"], row["claim"]["short_by"]) for row in content["rows"]] == [(1.0, 0), (2.0, 0)]
    for exam in exams:
        errors = [[found["error_percent"] for found in row[exam]] for row in content["rows"]]
        assert errors == [[1.0, 1.0], [2.0, 2.0]]
        assert [(line["seeds"], line["error_percent"]) for line in content[f"{exam}_mean_of_seeds"]] == 2 * [(2, 1.5)]
    tasks = read(str(discover.recipes()["omniglot-lake20-incontext"]))["tasks"]["init_args"]
    assert tasks["split"] == "lake-whole"
