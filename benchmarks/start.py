"""The start-up time of commands, as multiples of `python -c "import torch"` in the same run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from against import Failed, environment, turns
from against_recipes import STARTED
from stopwatch import quartiles

PAUSE = 0.005  # seconds between two looks at a file
PATIENCE = 300.0
Rows = list[dict[str, Any]]
RECIPE, SMALL = STARTED
ONE = ("--outer.steps", "1", "--outer.n_validation", "1", "--n_test", "1")


FIRST_BATCH = """
import runpy, sys

from metabox import evaluation

score_batch = evaluation.score_batch


def first(*arguments, **options):
    score_batch(*arguments, **options)
    print("the first batch", flush=True)
    raise KeyboardInterrupt


evaluation.score_batch = first
sys.argv[0] = "metabox"
runpy.run_module("metabox", run_name="__main__")
"""
"""`metabox` until it has drawn and scored a batch."""


class Checkout:
    """Commands of one checkout, each in a process of its own, in a folder with a finished run."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder, self._environment = folder, environment(checkout)
        self.seconds("train", RECIPE, *SMALL, *ONE, "--out", "run")

    def seconds(self, *arguments: str) -> float:
        """From the start of a command to its end.

        Raises:
            Failed: if the command fails, with its last line.
        """
        begin = time.perf_counter()
        done = subprocess.run(self._command(arguments), capture_output=True, text=True, check=False, **self._where())
        seconds = time.perf_counter() - begin
        if done.returncode:
            raise Failed(f"metabox {arguments[0]}: {(done.stderr.strip().splitlines() or [''])[-1]}")
        return seconds

    def first_step(self) -> float:
        """From the start of `train` to the end of its first step.

        A line of the log comes after many steps; the steps after the first are subtracted, by the time of warm ones.
        """
        out = self._folder / "first"
        shutil.rmtree(out, ignore_errors=True)
        lengthy = ["--outer.steps", "100000", "--outer.validate_every", "100000", "--out", str(out)]
        begin = time.perf_counter()
        process = subprocess.Popen(
            self._command(["train", RECIPE, *SMALL, *lengthy]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._where(),
        )
        try:
            first = self._line(process, out, 1)
            arrived = time.perf_counter() - begin
            second = self._line(process, out, 2)
        finally:
            process.kill()
            process.wait()
        warm = (second["seconds"] - first["seconds"]) / (second["step"] - first["step"])
        return float(arrived - (first["step"] - 1) * warm)

    def first_batch(self) -> float:
        """From the start of `evaluate` until its first batch, of one task, is drawn and scored.

        Raises:
            Failed: if it ends without one, as in a version that scores batches by another function.
        """
        command = [sys.executable, "-W", "ignore", "-c", FIRST_BATCH, "evaluate", "run", "--n_test", "1"]
        begin = time.perf_counter()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **self._where()
        ) as process:
            assert process.stdout is not None
            said = any(line == "the first batch\n" for line in process.stdout)  # stops reading at that line
            seconds = time.perf_counter() - begin
        if not said:
            raise Failed("metabox evaluate ended before its first batch")
        return seconds

    def _line(self, process: subprocess.Popen[bytes], out: Path, number: int) -> dict[str, Any]:
        path, end = out / "metrics.jsonl", time.perf_counter() + PATIENCE
        while process.poll() is None and time.perf_counter() < end:
            if path.exists() and len(lines := path.read_bytes().split(b"\n")) > number:
                return dict(json.loads(lines[number - 1]))
            time.sleep(PAUSE)
        raise Failed("metabox train ended, or hung, before its first lines of metrics.jsonl")

    def _command(self, arguments: Any) -> list[str]:
        return [sys.executable, "-W", "ignore", "-m", "metabox", *arguments]

    def _where(self) -> dict[str, Any]:
        return {"cwd": self._folder, "env": self._environment}


COMMANDS: dict[str, Callable[[Checkout], float]] = {
    "metabox --help": lambda c: c.seconds("--help"),
    "metabox list": lambda c: c.seconds("list"),
    "metabox train --help": lambda c: c.seconds("train", "--help"),
    "metabox train RECIPE, to the end of its first step": Checkout.first_step,
    "metabox evaluate RUN, to the end of its first batch": Checkout.first_batch,
    "metabox evaluate RUN, one task": lambda c: c.seconds("evaluate", "run", "--n_test", "1"),
}


def start(checkouts: Mapping[str, Path], rounds: int) -> Rows:
    """Each command of each checkout, interleaved, with the import of torch in every round."""
    found: dict[str, dict[str, list[float]]] = {name: {who: [] for who in checkouts} for name in COMMANDS}
    imports: list[float] = []
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = {who: Checkout(path, Path(folder) / who) for who, path in checkouts.items()}
        for order in turns(made, rounds):
            imports.append(_import_torch())
            for name, measure in COMMANDS.items():
                try:
                    for who in order if name not in failed else ():
                        found[name][who].append(measure(made[who]))
                except Failed as failure:  # another version may not have it
                    failed[name] = str(failure)
    rows: Rows = [{"command": 'python -c "import torch"', "seconds_this": quartiles(imports)}]
    for name, seconds in found.items():
        if name in failed:
            rows.append({"command": name, "left_out": failed[name]})
            continue
        multiples = {
            f"multiple_{who}": quartiles([s / i for s, i in zip(values, imports, strict=True)])
            for who, values in seconds.items()
        }
        of = {f"seconds_{who}": quartiles(values) for who, values in seconds.items()}
        rows.append({"command": name, **multiples, **of})
    return rows


def _import_torch() -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", "import torch"], check=True)
    return time.perf_counter() - begin
