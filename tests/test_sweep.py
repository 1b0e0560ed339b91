"""Sweeps: all combinations, each once, from where they were left."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from metabox import sweep as sweeps
from metabox.cli import main
from metabox.files import write_json, write_text
from metabox.sweep import Job, grid, sweep

GLYPHS = "glyphs-5w1s-incontext"
TINY = """
tasks: {class_path: Glyphs, init_args: {n_way: 2, n_shot: 1, n_query: 1}}
learner: {class_path: CNP, init_args: {width: 8, backbone: {class_path: Flatten}}}
outer: {steps: 2, n_tasks: 2, validate_every: 1, n_validation: 2, precision: "32"}
n_test: 4
"""


def finish(job: Job, accuracy: float = 0.5) -> None:
    """What a run leaves behind."""
    write_json(job.folder / "manifest.json", {"finished": True, "files": {}})
    write_json(
        job.folder / "results" / "test-seed0-abc.json", {"summary": {"n_tasks": 3, "accuracy": {"mean": accuracy}}}
    )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were started; each finishes its run, but for those with seed 1 of lr 2."""
    commands: list[list[str]] = []

    def execute(command: list[str], folder: str) -> int:
        commands.append(command)
        if {"2", "1"} <= set(command[command.index("--outer.lr") :]):
            return 1
        finish(Job("", (), 0, Path(folder)))
        return 0

    monkeypatch.setattr(sweeps, "execute", execute)
    return commands


def test_the_grid_has_every_combination_of_recipes_values_and_seeds_once(tmp_path: Path) -> None:
    jobs = grid([GLYPHS, "omniglot-5w1s-cnp"], ["outer.lr=1,2", "tasks.init_args.n_shot=[1,5],3"], 3, tmp_path)
    assert len(jobs) == len({job.folder for job in jobs}) == 2 * 2 * 2 * 3
    assert {job.options for job in jobs} == {
        (("outer.lr", lr), ("tasks.init_args.n_shot", shot)) for lr in ("1", "2") for shot in ("[1,5]", "3")
    }
    last = jobs[-1]
    assert last.command()[1:] == [
        *("-m", "metabox", "train", "omniglot-5w1s-cnp", "--outer.lr", "2", "--tasks.init_args.n_shot", "3"),
        *("--seed", "2", "--out", str(last.folder)),
    ]


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_finished_run_is_not_run_again_and_a_failed_one_is(
    tmp_path: Path, started: list[list[str]], at_once: int
) -> None:
    jobs = grid([GLYPHS], ["outer.lr=1,2"], 2, tmp_path)
    finish(jobs[0])
    for tries in (3, 4):  # all but the finished one, then the failed one alone
        with pytest.raises(ValueError, match=r"got 1 that failed; see .*outer.lr=2-seed1/train.log"):
            sweep(jobs, at_once=at_once)
        assert len(started) == tries
    finish(jobs[3], accuracy=0.9)
    rows = sweep(jobs)["runs"]
    assert len(started) == 4
    assert [(row["outer.lr"], row["seed"], row["accuracy"]) for row in rows] == [
        ("1", 0, 0.5), ("1", 1, 0.5), ("2", 0, 0.5), ("2", 1, 0.9),
    ]  # fmt: skip


def test_the_command_trains_evaluates_and_sums_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text("tiny.yaml", TINY)
    command = ["sweep", "tiny.yaml", "--seeds", "1", "--set", "outer.lr=0.001,0.002", "--jobs", "2"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 runs: sweeps/sweep.json"
    rows = json.loads(Path("sweeps/sweep.json").read_text())["runs"]
    assert [row["outer.lr"] for row in rows] == ["0.001", "0.002"]
    assert all(0 <= row["accuracy"] <= 1 and (Path(row["folder"]) / "best.safetensors").exists() for row in rows)
    before = {path: path.stat().st_mtime_ns for path in Path("sweeps").rglob("*") if path.name != "sweep.json"}
    assert main(command) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.is_file())


@pytest.mark.parametrize(
    ("recipe", "option", "seeds", "message"),
    [
        (GLYPHS, "outer.lr", 1, "expected an option as NAME=VALUE"),
        (GLYPHS, "outer.lr=1,,2", 1, "expected an option as NAME=VALUE"),
        (GLYPHS, "outer.lr=1,1", 1, "expected runs that differ"),
        (GLYPHS, "outer.lr=1", 0, "seeds of at least 1"),
        ("no-such-recipe", "outer.lr=1", 1, "expected a recipe's name"),
    ],
)
def test_what_makes_no_sweep_is_named(tmp_path: Path, recipe: str, option: str, seeds: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid([recipe], [option], seeds, tmp_path)


def test_ray_is_asked_for_by_name_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match="pip install ray;"):
        sweep(grid([GLYPHS], [], 1, tmp_path), engine="ray")


def test_ray_gets_every_run_that_is_not_finished_with_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[list[str]]
) -> None:
    asked: list[dict] = []

    def remote(**options: object):  # type: ignore[no-untyped-def]  # a stand-in with the few functions of Ray that are used
        asked.append(options)
        return lambda function: SimpleNamespace(remote=lambda *arguments: (function(*arguments), id(arguments)))

    ray = SimpleNamespace(
        is_initialized=lambda: True, remote=remote, wait=lambda refs: (refs[:1], refs[1:]), get=lambda ref: ref[0]
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.chdir(tmp_path)
    jobs = grid([GLYPHS], ["outer.lr=1,3"], 2, "out")
    finish(jobs[0])
    assert len(sweep(jobs, engine="ray", gpus=0.5)["runs"]) == 4
    assert asked == [{"num_gpus": 0.5, "max_retries": 2}]
    assert sorted(command[-1] for command in started) == sorted(str(job.folder.absolute()) for job in jobs[1:])


def test_a_sweep_runs_on_ray_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="Ray is an optional extra: pip install ray")
    monkeypatch.chdir(tmp_path)
    write_text("tiny.yaml", TINY)
    try:
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
        runs = sweep(grid(["tiny.yaml"], [], 2, "out"), engine="ray")["runs"]
    finally:
        ray.shutdown()
    assert [run["seed"] for run in runs] == [0, 1]
    assert all(0 <= run["accuracy"] <= 1 for run in runs)
