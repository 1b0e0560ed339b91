"""Trainings whose time of a processor is counted, and tables of them that go on where they were stopped."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from readings import log_of

from metabox.cli.main import main as metabox
from metabox.episodes import Split
from metabox.evaluation import evaluate
from metabox.files import read_json, write_json
from metabox.learners.base import Learner
from metabox.tasks.sampler import EpisodeSampler
from metabox.training.environment import collect_environment, read_environment
from metabox.views import Views

Row = dict[str, Any]
VIEWS = (1, 9)
"""Of an image, over which an answer is averaged."""


def train(recipe: str, out: Path, options: Sequence[str]) -> None:
    """Train, or go on; the processor's time of every call that makes steps is added up in a file beside the run."""
    ledger, before, began = out.with_suffix(".processor.json"), steps_of(out), time.process_time()
    try:
        if code := metabox(["train", recipe, "--out", str(out), *options, "--n_test", "1"]):
            raise SystemExit(code)
    finally:
        if steps_of(out) > before:
            spent = read_json(ledger)["seconds"] if ledger.exists() else 0.0
            write_json(ledger, {"seconds": spent + time.process_time() - began})


def outer(**settings: float) -> list[str]:
    """Settings of the outer loop as options of `metabox train`."""
    return [word for name, value in settings.items() for word in (f"--outer.{name}", str(value))]


def steps_of(out: Path) -> int:
    """How many steps the log of a run has, if there is one."""
    return int(log_of(out)[-1]["step"]) if (out / "metrics.jsonl").exists() and log_of(out) else 0


def seconds_per_step(recipe: str, options: Sequence[str]) -> float:
    """Of one core, between two short trainings that differ by 40 steps."""
    short = outer(validate_every=1000, n_validation=1, warmup=1)
    taken = []
    for steps in (10, 10, 50):  # the first one warms up
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            train(recipe, Path(folder) / "run", [*options, *short, *outer(steps=steps)])
            taken.append(time.process_time() - began)
    return (taken[2] - taken[1]) / 40


def cost(out: Path) -> Row:
    """What a training took, and by which version it was made."""
    last, about, ledger = log_of(out)[-1], read_environment(out), out.with_suffix(".processor.json")
    return {
        "steps": last["step"],
        "training_seconds": round(last["seconds"]),
        "processor_seconds": round(read_json(ledger)["seconds"]) if ledger.exists() else None,
        "precision": about["precision"],
        "trained_at_commit": about["git_commit"],
        "git_tree": about["git_tree"],
    }


def scores(learner: Learner, tasks: EpisodeSampler, split: Split, n_tasks: int, views: int) -> Row:
    """The accuracy of answers that are averaged over views."""
    found = evaluate(learner, tasks, split=split, n_tasks=n_tasks, batch=5, objective=partial(Views, n_views=views))
    return {
        "views": views,
        "accuracy_percent": round(100 * found.mean("accuracy"), 3),
        "interval_95_percent": round(100 * found.interval("accuracy"), 3),
        "tasks": n_tasks,
    }


def by_views(
    learner: Learner, tasks: EpisodeSampler, split: Split, n_tasks: int, each: Sequence[int] = VIEWS, **about: Any
) -> list[Row]:
    """A row for each number of views, with what is said about it before its scores; each is printed."""
    rows = []
    for views in each:
        rows.append(about | scores(learner, tasks, split, n_tasks, views))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def add_rows(out: Path | None, keys: Sequence[Row], row_of: Callable[[Row], Row], about: Row) -> None:
    """Write a row for each key into a file of results; what this version of metabox has measured is kept.

    Args:
        out: None to print the rows only.
        keys: what tells a row from the others.
        row_of: measures.
        about: what the file says beside its rows.
    """

    def kept() -> list[Row]:
        return read_json(out)["rows"] if out is not None and out.exists() else []

    for key in keys:
        environment = collect_environment()
        now = key | {"git_tree": environment["git_tree"]}
        if any(now.items() <= row.items() and "left_out" not in row for row in kept()):
            continue
        measured = now | row_of(key)
        print(json.dumps(measured), flush=True)
        if out is not None:  # another process may have added to the file meanwhile
            others = [row for row in kept() if not key.items() <= row.items()]
            write_json(out, {**about, "environment": environment, "rows": [*others, measured]})
