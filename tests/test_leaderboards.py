"""The leaderboards page: which rows of the committed results share an exam, and how they are shown."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def leaderboards(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("leaderboards")


def written(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps({"git_tree": "now"} | content))
    listed = {f"{name}.json": {"command": ""} for name in files}
    (folder / "manifest.json").write_text(json.dumps({"current": "now", "files": listed}))
    return folder


def row(percent: float, **more: Any) -> dict[str, Any]:
    return {"accuracy_percent": percent, "interval_95_percent": 0.5} | more


def test_rows_of_all_files_meet_in_their_exam_the_best_first(leaderboards: ModuleType, tmp_path: Path) -> None:
    timed = [
        row(90, recipe="omniglot-5w1s-versa", training_seconds=90, steps=1000),
        row(95, recipe="omniglot-5w1s-incontext", training_seconds=60, steps=2000),
        row(96, recipe="omniglot-5w1s-incontext", training_seconds=600, steps=20000),
        row(50, recipe="omniglot-20w1s-cnp", training_seconds=60),  # alone in its exam
    ]
    shipped = [row(97, task="Omniglot 5w1s", outside_data="ImageNet"), row(99, task="Omniglot 5w1s", split="val")]
    nested = [{"learner": "ProtoNet", "accuracies": [row(94, task="Omniglot 5w1s", views=9)]}]
    folder = written(tmp_path, a={"rows": timed}, b={"rows": shipped, "run": {"recipe": "photos"}}, c={"rows": nested})
    page = leaderboards.page(folder)
    assert [line for line in page.splitlines() if line.startswith(("##", "| `"))] == [
        "## Omniglot 5w1s",
        "| `photos` | 97.00 ± 0.50 |  |  | with ImageNet | current | `b.json` |",
        "| `omniglot-5w1s-incontext` | 96.00 ± 0.50 | 10.0 | 20,000 | its training classes | current | `a.json` |",
        "| `omniglot-5w1s-incontext` | 95.00 ± 0.50 | 1.0 | 2,000 | its training classes | current | `a.json` |",
        "| `ProtoNet, 9 views` | 94.00 ± 0.50 |  |  | its training classes | current | `c.json` |",
        "| `omniglot-5w1s-versa` | 90.00 ± 0.50 | 1.5 | 1,000 | its training classes | current | `a.json` |",
    ]
    assert "omniglot-5w1s-incontext: 5.00 % after 1.0, 4.00 % after 10.0" in page  # the figure in words


def test_without_two_rows_in_an_exam_the_page_says_so(leaderboards: ModuleType, tmp_path: Path) -> None:
    assert leaderboards.page(tmp_path) == "Not measured yet."
    assert leaderboards.page(written(tmp_path, a={"rows": [row(1, task="MNIST 5w1s")]})) == "Not measured yet."
