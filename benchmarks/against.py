"""Comparison of this checkout with another in one run: whole steps, validation, start-up. Called by speed.py.

One worker process per checkout, on one thread, runs `metabox train` repeatedly, in turns: A B, B A, A B, ... Steps are
timed by the loop's own clock: sampling, seeding, forward, backward, clip, optimizer, average. Ratios are taken within a
round, so that both sides run under the same load of the machine; cells are medians with quartiles over the rounds.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from against_recipes import RECIPES, STARTED, VALIDATED
from stopwatch import quartiles

HERE = Path(__file__).parents[1]
BLOCKS = 5  # of a run's steps; the first is not counted
SECONDS = 0.8  # roughly, of the steps of a run
MOST_STEPS = 100  # per block
VALIDATIONS, STARTS = 3, 3  # largest number of rounds, because these are long
PATIENCE = {"steps": 18.0, "validation": 30.0}  # seconds per recipe, after which no third or later round starts
Rows = list[dict[str, Any]]


class Failed(RuntimeError):
    """A checkout could not run a command."""


def environment(checkout: Path) -> dict[str, str]:
    """Environment variables by which `metabox` is that of the checkout, on one thread."""
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(checkout), *([before] if before else [])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Worker:
    """A process that trains with one checkout.

    Args:
        checkout: its folder.
        folder: where it may write.
        options: of every training.

    Raises:
        ValueError: if the package that it imports is not the checkout's.
    """

    def __init__(self, checkout: Path, folder: Path, options: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True)
        self._options = options
        self._out = str(folder / "run")
        script = str(Path(__file__).parent / "against_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", script, str(folder / "log.txt")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment(checkout),
        )
        package = self._answer().get("package")
        if package != str((checkout / "metabox").resolve()):
            self.close()
            raise ValueError(
                f"expected a checkout with the package metabox in it, got {checkout}, which gave {package}"
            )
        self.train(*STARTED, steps=1, n_validation=1)  # everything is imported once

    def train(self, recipe: str, options: Iterable[str], **outer: int) -> dict[str, Any]:
        """
        Raises:
            Failed: if the command fails, with the reason.
        """
        more = [word for name, value in outer.items() for word in (f"--outer.{name}", str(value))]
        arguments = [recipe, *options, *self._options, "--n_test", "1", *more]
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"arguments": arguments, "out": self._out}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"its process ended with {self._process.wait()}")
        return dict(json.loads(line))

    def close(self) -> None:
        self._process.communicate()  # it ends with its input


def parts(
    other: Path | None, with_start: bool, rounds: int, names: Sequence[str]
) -> tuple[dict[str, Callable[[], Rows]], dict[str, Any]]:
    """The measurements in order, and the metadata recorded with them.

    Args:
        other: a checkout to compare with; without one, only the start-up of this one is measured.
        with_start: whether the start-up of commands is measured.
        rounds: of every measurement.
        names: recipes among RECIPES.
    """
    from start import start  # it imports this file

    checkouts = {"this": HERE} | ({"other": other.resolve()} if other else {})
    about = {"rounds": rounds, **{who: commit(path) for who, path in checkouts.items()}}
    timed: Rows = []

    def whole_steps() -> Rows:
        with working(checkouts) as workers:
            timed[:] = steps(workers, names, rounds)
        return timed

    def validations() -> Rows:
        with working(checkouts) as workers:
            return validation(workers, names, min(rounds, VALIDATIONS))

    found: dict[str, Callable[[], Rows]] = {}
    if other:
        found = {"steps": whole_steps, "means": lambda: means(timed)}
        found |= {"validation": validations} if {*names} & {*VALIDATED} else {}
    if with_start:
        found["start"] = lambda: start(checkouts, min(rounds, STARTS))
    return found, about


@contextmanager
def working(
    checkouts: Mapping[str, Path], options: Mapping[str, Sequence[str]] | None = None
) -> Iterator[dict[str, Worker]]:
    """A worker for each checkout, with its options of every training."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        workers = {}
        for who, checkout in checkouts.items():
            workers[who] = Worker(checkout, Path(folder) / who, (options or {}).get(who, ()))
            stack.callback(workers[who].close)
        yield workers


def turns(names: Iterable[str], rounds: int, seconds: float = math.inf) -> Iterator[list[str]]:
    """The order of each round, reversed from one to the next; after `seconds` no third or later round starts."""
    order, end = list(names), time.monotonic() + seconds
    for number in range(rounds):
        if number >= 2 and time.monotonic() > end:
            return
        yield list(order)
        order.reverse()


def steps(workers: Mapping[str, Worker], names: Sequence[str], rounds: int) -> Rows:
    """Milliseconds of a whole step of each recipe, and the speed of this checkout relative to the other."""
    rows = []
    for name in names:
        kind, recipe, options = RECIPES[name]
        row: dict[str, Any] = {"recipe": name, "kind": kind}
        try:
            rows.append(row | whole_step(workers, recipe, options, rounds))
        except Failed as failure:
            rows.append(row | {"left_out": str(failure)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def whole_step(
    workers: Mapping[str, Worker], recipe: str, options: Sequence[str], rounds: int, seconds: float = PATIENCE["steps"]
) -> dict[str, Any]:
    """Milliseconds of a whole step by two workers, as in `compared`; after `seconds` no third or later round starts."""
    first = {who: worker.train(recipe, options, **_outer(1)) for who, worker in workers.items()}
    slowest = max(_ms(run["blocks"]) for run in first.values())
    block = min(MOST_STEPS, max(1, math.ceil(1e3 * SECONDS / BLOCKS / slowest)))
    ms: dict[str, list[float]] = {who: [] for who in workers}
    for order in turns(workers, rounds, seconds):
        for who in order:
            ms[who].append(_ms(workers[who].train(recipe, options, **_outer(block))["blocks"]))
    peaks = {f"peak_mb_{who}": round(run["peak_mb"], 1) for who, run in first.items() if run["peak_mb"] > 0}
    return {**compared(ms, "ms"), **peaks}


def _outer(block: int) -> dict[str, int]:
    return {"steps": BLOCKS * block, "validate_every": block, "n_validation": 1}


def _ms(blocks: list[list[float]]) -> float:
    """Milliseconds of a step, the median over blocks."""
    return 1e3 * statistics.median(seconds / count for count, seconds in blocks[1:])


def compared(values: Mapping[str, list[float]], unit: str) -> dict[str, Any]:
    """The values of two sides, and the ratios second / first of each round."""
    first, second = values
    ratios = [other / this for this, other in zip(values[first], values[second], strict=True)]
    least = {who: min(found) for who, found in values.items()}  # of a round without other load on the machine
    return {
        "rounds": len(ratios),
        "times_as_fast": quartiles(ratios),
        "of_the_fastest_rounds": round(least[second] / least[first], 3),
        **{f"{unit}_{who}": quartiles(found) for who, found in values.items()},
    }


def means(rows: Rows) -> Rows:
    """Geometric means of the ratios of each kind, and of all."""
    measured = [row for row in rows if "left_out" not in row]
    table = []
    for kind in (*dict.fromkeys(row["kind"] for row in measured), *(["all"] if measured else [])):
        of = {row["recipe"]: row["times_as_fast"]["median"] for row in measured if kind in (row["kind"], "all")}
        slowest = min(of, key=of.__getitem__)
        table.append(
            {
                "kind": kind,
                "recipes": len(of),
                "times_as_fast": round(statistics.geometric_mean(of.values()), 3),
                "least": round(of[slowest], 3),
                "least_of": slowest,
            }
        )
    return table


def validation(workers: Mapping[str, Worker], names: Sequence[str], rounds: int, tasks: int = 100) -> Rows:
    """Milliseconds of a hundred validation tasks inside `run`, from a run with a hundred and one with a single task."""
    rows: Rows = []
    for name in (name for name in names if name in VALIDATED):
        _, recipe, options = RECIPES[name]

        def ms(worker: Worker, n: int, recipe: str = recipe, options: list[str] = options) -> float:
            """The time of a run of one step, without that step."""
            run = worker.train(recipe, options, steps=1, validate_every=1, n_validation=n)
            return 1e3 * float(run["wall"] - sum(seconds for _, seconds in run["blocks"]))

        try:
            found: dict[str, list[float]] = {who: [] for who in workers}
            for order in turns(workers, rounds, PATIENCE["validation"]):
                for who in order:
                    found[who].append(100 / (tasks - 1) * (ms(workers[who], tasks) - ms(workers[who], 1)))
            rows.append({"recipe": name, **compared(found, "ms_a_hundred_tasks")})
        except Failed as failure:
            rows.append({"recipe": name, "left_out": str(failure)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def commit(checkout: Path) -> dict[str, Any]:
    """The git commit of a checkout, and whether files have changed; None if it is not a git checkout."""

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "changed": None if changed is None else bool(changed)}
