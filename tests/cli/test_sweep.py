"""Sweeps: all combinations, each once, from where they were left; and what they came to."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metabox.cli import sweep as sweeps
from metabox.cli.main import main
from metabox.cli.sweep import Job, grid, sweep, write_summary
from metabox.files import read_json, write_json, write_text
from metabox.recipe import dump, find, make_parser, parse

GLYPHS = "glyphs-5w1s-incontext"
TINY = """
tasks: {class_path: Glyphs, init_args: {n_way: 2, n_shot: 1, n_query: 1}}
learner: {class_path: CNP, init_args: {width: 8, backbone: {class_path: Conv4, init_args: {width: 4}}}}
outer: {steps: 2, n_tasks: 2, validate_every: 1, n_validation: 2, precision: "32"}
n_test: 4
"""
EVIL = "open(__file__ + '.PWNED', 'w').close()\nraise ImportError('a file of the working directory was imported')\n"


def finish(job: Job, validation: float = 0.5) -> None:
    """What a run leaves behind, as far as a sweep looks at it."""
    parser = make_parser(find(job.recipe))
    words = [word for name, value in job.options for word in (f"--{name}", value)]
    write_text(job.folder / "recipe.yaml", dump(parser, parse(parser, [*words, "--seed", str(job.seed)])))
    write_json(job.folder / "manifest.json", {"finished": True, "files": {}}, hashed=True)
    scores = {"chosen_by": "accuracy", "validation": {"accuracy": validation}, "test": {"accuracy": 0.25, "nll": None}}
    write_json(job.folder / "scores.json", scores)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were started; each finishes its run, but for those with seed 1 of lr 2."""
    commands: list[list[str]] = []

    def execute(arguments: list[str], folder: str, *_: object) -> str | None:
        commands.append(arguments)
        options = dict(zip(arguments[2::2], arguments[3::2], strict=True))
        if (options["--outer.lr"], options["--seed"]) == ("2", "1"):
            return "the loss was not finite"
        finish(Job(arguments[1], (("outer.lr", options["--outer.lr"]),), int(options["--seed"]), Path(folder)))
        return None

    monkeypatch.setattr(sweeps, "execute", execute)
    monkeypatch.setattr(sweeps, "scores_of_run", lambda folder: read_json(folder / "scores.json"))
    return commands


def test_the_grid_has_every_combination_of_recipes_values_and_seeds_once(tmp_path: Path) -> None:
    options = ["outer.lr=1,2", "tasks.init_args.n_shot=[1,5],3"]
    jobs = grid([GLYPHS, "omniglot-5w1s-cnp"], options, 3, tmp_path, plugins=["--plugins", "/a/b.py"])
    assert len(jobs) == len({job.folder for job in jobs}) == 2 * 2 * 2 * 3
    assert {job.options for job in jobs} == {
        (("outer.lr", lr), ("tasks.init_args.n_shot", shot)) for lr in ("1", "2") for shot in ("[1,5]", "3")
    }
    last = jobs[-1]
    assert last.arguments() == [
        *("train", "omniglot-5w1s-cnp", "--outer.lr", "2", "--tasks.init_args.n_shot", "3", "--plugins", "/a/b.py"),
        *("--seed", "2", "--out", str(last.folder)),
    ]


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_finished_run_is_not_run_again_and_a_failed_one_is(
    tmp_path: Path, started: list[list[str]], at_once: int, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = grid([GLYPHS], ["outer.lr=1,2"], 2, tmp_path)
    finish(jobs[0], validation=0.75)
    for tries in (3, 4):  # all but the finished one, then the failed one alone
        runs = sweep(jobs, at_once=at_once)["runs"]
        assert [run.get("failed") for run in runs] == [None, None, None, "the loss was not finite"]
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"metabox: {jobs[3].folder.name} failed: the loss was not finite; see {tmp_path}")
        assert len(started) == tries
    finish(jobs[3])
    runs = sweep(jobs)["runs"]
    assert len(started) == 4
    assert [(run["options"], run["seed"], run["validation"]["accuracy"]) for run in runs] == [
        ({"outer.lr": 1}, 0, 0.75), ({"outer.lr": 1}, 1, 0.5), ({"outer.lr": 2}, 0, 0.5), ({"outer.lr": 2}, 1, 0.5),
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["recipe.yaml", "manifest.json"])
def test_what_is_not_this_run_to_its_end_is_left_to_train_to_refuse(
    tmp_path: Path, started: list[list[str]], damage: str
) -> None:
    jobs = grid([GLYPHS], ["outer.lr=1"], 2, tmp_path)
    for job in jobs:
        finish(job)
    (jobs[0].folder / damage).write_text("outer: {lr: 7}\n")  # the recipe's file has changed since, say
    sweep(jobs)
    assert [arguments[-1] for arguments in started] == [str(jobs[0].folder)]


def test_the_mean_and_the_spread_over_seeds_validation_first_and_numbers_as_numbers(
    tmp_path: Path, started: list[list[str]]
) -> None:
    jobs = grid([GLYPHS], ["outer.lr=1,2e-3,2"], 3, tmp_path)
    for job, validation in zip(jobs, (0.25, 0.5, 1.0, 0.125), strict=False):
        finish(job, validation)
    with pytest.raises(ValueError, match=r"got 1 of 9 that failed; .*sweep.json says why"):
        write_summary(sweep(jobs), tmp_path)
    first, second, third = read_json(tmp_path / "sweep.json")["combinations"]
    assert list(first)[:2] == ["recipe", "options"]
    assert list(first).index("validation") < list(first).index("test")
    mean, spread = statistics.mean([0.25, 0.5, 1.0]), statistics.stdev([0.25, 0.5, 1.0])
    assert first["validation"] == {"accuracy": {"mean": pytest.approx(mean), "spread": pytest.approx(spread)}}
    assert first["test"] == {"accuracy": {"mean": 0.25, "spread": 0.0}, "nll": {"mean": None, "spread": None}}
    assert (first["options"], second["options"]) == ({"outer.lr": 1}, {"outer.lr": 0.002})
    assert (third["seeds"], third["failed_seeds"], third["chosen_by"]) == ([0, 2], [1], "accuracy")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("true", True),
        ("[1,5]", [1, 5]),
        ("a", "a"),
        ("nan", "nan"),
        ("NaN", "NaN"),
    ],
)
def test_the_value_of_an_option_is_what_json_has_for_it(text: str, value: Any) -> None:
    assert sweeps._value(text) == value


def test_the_command_trains_evaluates_and_sums_up_and_imports_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}:")  # an empty entry is the working directory
    for name in ("metabox", "torch", "json", "jsonargparse", "sitecustomize"):
        write_text(f"{name}.py", EVIL)
    write_text("tiny.yaml", TINY)
    command = ["sweep", "tiny.yaml", "--seeds", "1", "--set", "tasks.init_args.n_way=2,0", "--jobs", "2"]
    assert main(command) == 2
    assert not list(tmp_path.glob("*.PWNED"))
    *_, failed, said = capsys.readouterr().err.splitlines()
    assert "n_way=0-seed0 failed: expected " in failed
    assert said.startswith("metabox: error: expected every run to succeed, got 1 of 2 that failed; sweeps/sweep.json")
    good, bad = read_json("sweeps/sweep.json")["runs"]
    assert bad["failed"] in failed
    folder = Path(good["folder"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    validations = [line["val"] for line in lines if "val" in line]
    assert good["validation"] == max(validations, key=lambda scores: scores["accuracy"])  # the first of the best
    assert (good["chosen_by"], good["options"]) == ("accuracy", {"tasks.init_args.n_way": 2})
    (own,) = (folder / "results").glob("*.json")

    options = ["--learner.init_args.backbone.init_args.norm", "transductive"]  # the same tasks, another protocol
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for other in ([], ["--n_test", "5"], ["--tasks.init_args.n_query", "2"], options):
        assert main(["evaluate", str(folder), *other]) == 0
    assert len(list((folder / "results").glob("test-seed0-*.json"))) == 4
    assert main([*command[:-3], "tasks.init_args.n_way=2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 runs: sweeps/sweep.json"
    assert read_json("sweeps/sweep.json")["runs"] == [good]
    assert [path for path, time in before.items() if path.is_file() and path.stat().st_mtime_ns != time] == [
        folder / "manifest.json", own
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "option", "seeds", "message"),
    [
        (GLYPHS, "outer.lr", 1, "expected an option as NAME=VALUE"),
        (GLYPHS, "outer.lr=1,,2", 1, "expected an option as NAME=VALUE"),
        (GLYPHS, "outer.lr=1,1", 1, "expected runs that differ"),
        (GLYPHS, "outer.lr=1", 0, "seeds of at least 1"),
        ("no-such-recipe", "outer.lr=1", 1, "expected a recipe's name"),
        (GLYPHS, "outer.lrr=1", 1, "lrr"),
        (GLYPHS, "outer.lr=1,much", 1, "much"),
    ],
)
def test_what_makes_no_sweep_is_named_before_anything_is_started(
    tmp_path: Path, recipe: str, option: str, seeds: int, message: str, started: list[list[str]]
) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(grid([recipe], [option], seeds, tmp_path))
    assert not started


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
    assert sorted(arguments[-1] for arguments in started) == sorted(str(job.folder.absolute()) for job in jobs[1:])


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
    assert all(0 <= run["test"]["accuracy"] <= 1 for run in runs)
