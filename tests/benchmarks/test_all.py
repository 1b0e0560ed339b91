"""The pipeline of results, on made-up scripts."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def pipeline() -> ModuleType:
    return importlib.import_module("all")


@pytest.fixture
def version(pipeline: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    now = {"tree": "one"}
    monkeypatch.setattr(pipeline, "version", lambda: now["tree"])
    return now


def job(name: str, **more: Any) -> dict[str, dict[str, Any]]:
    return {name: {"writes": name, "script": "s.py", "arguments": "--fast", "tier": "quick", "minutes": 1, **more}}


class Runs:
    """Writes what a script would write, unless it is to fail."""

    def __init__(self, folder: Path, fail: tuple[str, ...] = (), silent: tuple[str, ...] = ()) -> None:
        self.folder, self.fail, self.silent, self.ran = folder, fail, silent, list[str]()

    def __call__(self, job: dict[str, Any], root: str | None, now: str) -> bool:
        self.ran.append(job["writes"])
        if job["writes"] not in self.silent:
            (self.folder / job["writes"]).write_text(json.dumps({"environment": {"git_tree": now}, "rows": []}))
        return job["writes"] not in self.fail


def test_a_second_run_does_only_what_failed_and_a_new_version_everything(
    pipeline: ModuleType, version: dict[str, str], tmp_path: Path
) -> None:
    wanted, path = job("a.json") | job("b.json"), tmp_path / "manifest.json"
    first, second, third = Runs(tmp_path, fail=("a.json",)), Runs(tmp_path), Runs(tmp_path)
    assert pipeline.regenerate(wanted, None, path, first) == ["a.json"]
    assert pipeline.regenerate(wanted, None, path, second) == []
    assert (first.ran, second.ran) == (["a.json", "b.json"], ["a.json"]), "what a script wrote before it failed is none"
    assert "failed" not in json.loads(path.read_text())
    version["tree"] = "two"
    assert pipeline.regenerate(wanted, None, path, third) == []
    assert third.ran == ["a.json", "b.json"]
    assert json.loads(path.read_text())["files"]["a.json"]["command"] == "python benchmarks/s.py --fast"


def test_a_script_that_wrote_no_file_of_this_version_has_failed(
    pipeline: ModuleType, version: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "manifest.json"
    (tmp_path / "a.json").write_text('{"environment": {"git_tree": "zero"}}')
    assert pipeline.regenerate(job("a.json"), None, path, Runs(tmp_path, silent=("a.json",))) == ["a.json"]
    assert json.loads(path.read_text())["files"] == {}


def test_what_reads_another_result_is_measured_after_it(
    pipeline: ModuleType, version: dict[str, str], tmp_path: Path
) -> None:
    runs = Runs(tmp_path)
    wanted = job("a.json", after="b.json") | job("b.json", after="c.json") | job("c.json")
    wanted |= job("d.json", after="e.json")  # which is not wanted
    assert pipeline.regenerate(wanted, None, tmp_path / "manifest.json", runs) == []
    assert runs.ran == ["c.json", "d.json", "b.json", "a.json"]


def test_a_current_file_whose_script_was_run_by_hand_is_entered_and_not_measured_again(
    pipeline: ModuleType, version: dict[str, str], tmp_path: Path
) -> None:
    path, runs = tmp_path / "manifest.json", Runs(tmp_path)
    runs(job("a.json")["a.json"], None, "one")
    pipeline.regenerate(job("a.json"), None, path, runs)
    assert runs.ran == ["a.json"]
    entry = {"command": "python benchmarks/s.py --fast", "minutes": None}
    assert json.loads(path.read_text()) == {"current": "one", "files": {"a.json": entry}}


def test_a_file_with_one_row_of_an_older_version_is_older(
    pipeline: ModuleType, version: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "manifest.json"
    pipeline.regenerate(job("a.json"), None, path, Runs(tmp_path))
    manifest = importlib.import_module("manifest")
    assert manifest.older(path) == []
    rows = [{"git_tree": "one"}, {"git_tree": "zero"}]
    (tmp_path / "a.json").write_text(json.dumps({"rows": rows}))
    assert manifest.older(path) == ["a.json"]
    (tmp_path / "a.json").write_text(json.dumps({"rows": [{"git_tree": "one"}, {"accuracy": 0.5}]}))
    assert manifest.older(path) == ["a.json"], "a row that does not say its version is of another"
    (tmp_path / "a.json").write_text(json.dumps({"rows": []}))
    assert manifest.older(path) == ["a.json"], "a version that nobody wrote down is not the current one"


def test_a_result_outside_the_manifest_is_not_printed(pipeline: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(ValueError, match=r"expected a file of manifest.json, got b.json"):
        importlib.import_module("manifest").result("b.json", tmp_path / "manifest.json")


@pytest.mark.parametrize("status", [" M metabox/a.py", "?? metabox/new.py"])
def test_uncommitted_changes_are_refused(pipeline: ModuleType, monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    monkeypatch.setattr(pipeline, "git", lambda *words: status)
    with pytest.raises(ValueError, match=re.escape(f"uncommitted changes under metabox/, got {status.strip()!r}")):
        pipeline.version()


def test_every_job_is_of_a_tier_and_the_quick_one_takes_ninety_minutes(pipeline: ModuleType) -> None:
    known = pipeline.jobs()
    assert sum(job["minutes"] for job in known.values() if job["tier"] == "quick") <= 90
    for job in known.values():
        text = (BENCHMARKS / job["script"]).read_text()
        assert "--data-root" in text or not job.get("data") or "published" in text


def test_two_scripts_that_write_one_file_are_an_error(pipeline: ModuleType, tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("JOBS = [{'writes': 'x.json', 'tier': 'quick', 'minutes': 1}]")
    with pytest.raises(ValueError, match=r"expected one script that writes x\.json, got b\.py too"):
        pipeline.jobs(tmp_path)
    (tmp_path / "b.py").write_text("JOBS = [{'writes': 'y.json', 'tier': 'slow', 'minutes': 1}]")
    with pytest.raises(ValueError, match=r"expected a tier among"):
        pipeline.jobs(tmp_path)
