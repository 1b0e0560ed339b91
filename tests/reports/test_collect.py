"""Which runs a report takes together, which it refuses, and which it marks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from made_up import SHORT
from report_cases import QUICK, RECIPE, claim, edit

from metabox.cli.main import main
from metabox.reports import manifest
from metabox.reports.collect import read_runs
from metabox.reports.page import write_report


def test_without_the_weights_a_report_says_what_is_missing(runs: list[Path], tmp_path: Path) -> None:
    (runs[0] / "best.safetensors").unlink()
    (run,) = write_report(runs[:1], tmp_path / "out", n_tasks=4)["runs"]
    assert run["measured"] is None
    assert "found no such file" in run["not_measured"]
    assert "found no such file" in (tmp_path / "out" / "report.html").read_text()


def test_runs_of_one_claim_with_other_protocols_are_refused_with_the_reason(runs: list[Path]) -> None:
    for run in runs:
        claim(run)
    (path,) = (runs[1] / "results").glob("*.json")
    for file, name in ((path, '"n_query": 3'), (runs[1] / "recipe.yaml", "n_query: 3")):
        edit(file, name, name.replace("3", "4"))
    with pytest.raises(
        ValueError, match=r"expected .* one protocol, got init_args.n_query: 3 against 4 in .*report them apart"
    ):
        read_runs(runs)


def test_recipes_of_one_claim_with_other_protocols_are_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "tasks: {{class_path: Glyphs, init_args: {{n_way: 2, n_shot: 1, n_query: {n_query}}}}}\n"
        "learner: {{class_path: {learner}}}\n"
        "claim: {{metric: accuracy, value: 50, source: A paper}}\n"
    )
    for name, learner, n_query in (("one", "ProtoNet", 1), ("other", "CNP", 2)):
        (tmp_path / f"{name}.yaml").write_text(text.format(learner=learner, n_query=n_query))
    asked = ["reproduce", *(str(tmp_path / f"{name}.yaml") for name in ("one", "other"))]
    asked += [*SHORT, "--seeds", "1", "--n_tasks", "0", "--out", str(tmp_path / "out")]
    assert main(asked) == 2
    assert "init_args.n_query: 1 against 2 in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*asked, "--tasks.init_args.n_query", "3"]) == 0  # now both are alike


def test_runs_without_a_claim_stand_in_one_table_for_each_protocol(runs: list[Path]) -> None:
    (path,) = (runs[1] / "results").glob("*.json")
    for file, name in ((path, '"n_query": 3'), (runs[1] / "recipe.yaml", "n_query: 3")):
        edit(file, name, name.replace("3", "4"))
    assert [[run.seed for run in table] for table in read_runs(runs)] == [[0], [1]]


def test_a_seed_cannot_be_counted_twice(runs: list[Path], tmp_path: Path) -> None:
    again = shutil.copytree(runs[0], tmp_path / "again")
    with pytest.raises(ValueError, match="expected every run once"):
        read_runs([runs[0], again])


@pytest.mark.parametrize("name", ["recipe.yaml", "best.safetensors", "metrics.jsonl", "environment.json", "results"])
def test_a_file_that_was_changed_after_the_run_is_marked(runs: list[Path], name: str) -> None:
    assert manifest.changes(runs[0]) == []
    path = next((runs[0] / "results").glob("*.json")) if name == "results" else runs[0] / name
    path.write_bytes(path.read_bytes() + b"\n")
    said = path.relative_to(runs[0]).as_posix()
    assert manifest.changes(runs[0]) == [f"{said} (changed)"]
    path.unlink()
    assert manifest.changes(runs[0]) == [f"{said} (missing)"]


def test_a_changed_run_is_not_judged_and_the_page_says_why(runs: list[Path], tmp_path: Path) -> None:
    claim(runs[0])
    (path,) = (runs[0] / "results").glob("*.json")
    manifest.record(runs[0], path, trained=True)
    edit(path, '"accuracy": [', '"accuracy":  [')
    ((row,),) = [table["rows"] for table in write_report(runs[:1], tmp_path / "out", n_tasks=0)["claims"]]
    assert row["verdict"] == "not judged: files were changed after the run"
    for form in ("html", "md"):
        assert f"CHANGED AFTER THE RUN: results/{path.name}" in (
            tmp_path / "out" / f"report.{form}"
        ).read_text().replace("\\", "")


def test_neither_evaluating_nor_training_again_makes_changed_files_good(runs: list[Path]) -> None:
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "val": {"accuracy": 1.0}}\n')
    (runs[0] / "results" / "test-seed5-000000.json").write_text("{}")
    for again in (["evaluate", str(runs[0])], ["train", RECIPE, *QUICK, "--out", str(runs[0])]):
        assert main(again) == 0
        assert manifest.changes(runs[0]) == ["metrics.jsonl (changed)", "results/test-seed5-000000.json (added)"]


def test_a_run_that_nothing_was_recorded_of_is_marked_as_such(runs: list[Path], tmp_path: Path) -> None:
    (runs[0] / "manifest.json").unlink()
    write_report(runs[:1], tmp_path / "out", n_tasks=0)
    assert "not recorded (no manifest.json)" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("results", None, "got 0 among 0"),
        ("results/odd.json", "{", "expected JSON"),
        ("results/odd.json", '{"summary": {}}', "expected a result of `metabox evaluate`"),
        ("metrics.jsonl", "[]\n", "expected a step in every line"),
        ("metrics.jsonl", "{\n", "expected a JSON object in every line"),
        ("manifest.json", "[1]", "manifest.json as it was written"),
        ("manifest.json", "null", "manifest.json as it was written"),
        ("manifest.json", '{"files": {"recipe', "expected JSON"),
        ("recipe.yaml", "outer: 3", "tasks, learner"),
        ("recipe.yaml", None, "expected the folder of a run"),
    ],
)
def test_a_folder_without_a_whole_run_is_named(
    runs: list[Path], name: str, content: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs[0] / name
    if content is None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    else:
        path.write_text(content)
    assert main(["report", str(runs[0]), "--out", str(runs[0] / "out")]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said
    assert str(runs[0]) in said or name == "recipe.yaml"
    assert not (runs[0] / "out").exists()
