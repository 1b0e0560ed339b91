"""Tools of the robustness campaign: commands in forked children, kills, and the outcome of a run.

Children are forked from a parent that has imported everything and computed nothing, so that starting one is cheap.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from readings import log_of
from safetensors import safe_open

MARK = "METABOX_HARM"
"""The environment variable that marks the descendants of a child."""

RECIPE = """# A recipe in a second
tasks: {class_path: Sinusoids, init_args: {n_support: 4, n_query: 4}}
learner: {class_path: CNP, init_args: {width: 16}}
outer: {steps: %d, n_tasks: 4, warmup: 5, average: 0.9, validate_every: %d, n_validation: 4, precision: "32"}
n_test: 20
"""


@dataclass
class Child:
    """A command in a forked process."""

    pid: int
    log: Path
    started: float = field(default_factory=time.monotonic)

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, or minus the signal; None if it is still running after the time limit."""
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG if seconds is not None else 0)
            if done:
                return os.waitstatus_to_exitcode(status)
            if seconds is not None and time.monotonic() - self.started > seconds:
                return None
            time.sleep(0.002)

    def kill(self) -> int | None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def start(call: Callable[[], object], log: Path) -> Child:
    """Run `call` in a forked process with its output in a file; its result is the exit code."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads: none in the parent holds a lock
        pid = os.fork()
    if pid:
        return Child(pid, log)
    code = 70
    try:
        os.environ[MARK] = str(os.getpid())
        with log.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        result = call()
        code = result if isinstance(result, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def command(*words: object) -> Callable[[], int]:
    """A command line to run in a child."""

    def call() -> int:
        from metabox.cli.main import main

        return main([str(word) for word in words])

    return call


def finished(call: Callable[[], object], log: Path, seconds: float = 120) -> Child:
    """Run `call` in a child and wait for its end.

    Raises:
        RuntimeError: if it fails or takes too long, with its output.
    """
    child = start(call, log)
    code = child.wait(seconds)
    if code is None:
        child.kill()
    if code != 0:
        raise RuntimeError(f"exit code {code}: {child.said[-2000:]}")
    return child


def descendants(child: Child) -> list[int]:
    """The running descendants of a child (Linux)."""
    mark, found = f"{MARK}={child.pid}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z" and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def recipe(folder: Path, steps: int = 60, validate_every: int = 10) -> Path:
    path = folder / f"toy-{validate_every}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(RECIPE % (steps, validate_every), encoding="utf-8")
    return path


def outcome(run: Path) -> dict[str, Any]:
    """The outcome of a run: its weights, its metrics and its scores, without times."""
    with safe_open(run / "best.safetensors", "np") as file:
        weights = blake2b(digest_size=8)
        for name in sorted(file.keys()):
            weights.update(name.encode() + file.get_tensor(name).tobytes())
    lines = log_of(run)
    results = {path.name: json.loads(path.read_text())["per_task"] for path in sorted((run / "results").glob("*.json"))}
    return {"weights": weights.hexdigest(), "metrics": [_without_times(line) for line in lines], "results": results}


def _without_times(line: dict[str, Any]) -> dict[str, Any]:
    train = {name: value for name, value in line.get("train", {}).items() if name != "tasks_per_s"}
    return {name: value for name, value in line.items() if name not in ("seconds", "train")} | {"train": train}


def files(folder: Path) -> set[str]:
    """All files and folders except locks and TensorBoard's, of which every process writes its own."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return {name for name in names if "tensorboard/" not in name and not name.endswith("lock")}


def flipped(path: Path, draw: random.Random) -> int:
    """Flip one bit of a file; returns its position."""
    content = bytearray(path.read_bytes())
    bit = draw.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(content))
    return bit


@contextlib.contextmanager
def copied(folder: Path, to: Path) -> Iterator[Path]:
    """A copy that is deleted afterwards."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to, symlinks=True)
    try:
        yield to
    finally:
        shutil.rmtree(to, ignore_errors=True)
