"""How the cost of a training step grows, and what a second process gains: two parts of speed.py, twenty minutes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from readings import blocks, forget_peak, memory_mb
from stopwatch import DEVICE, exponent, kept_bytes, milliseconds, objective_for, quartiles, training_step

from metabox import learners
from metabox.targets import Classes, TaskSpec
from metabox.testing import make_episodes
from metabox.training.allocator import keep_freed_memory

Rows = list[dict[str, Any]]

GROWN = ("CNP", "ACNP", "InContext", "TNPD", "SNAIL", "LSTM")
START = {"support": 128, "query": 128, "classes": 4, "tasks": 4, "width": 64}
MOST = {"support": 16384, "query": 16384, "classes": 64, "tasks": 256, "width": 1024}
FEW = {"support": {"tasks": 1}, "query": {"tasks": 1}}  # so that the largest N and M fit
SECONDS, MEGABYTES = 20.0, 6000.0  # of a step; a size that would need more at quadratic growth is left out
PATIENCE = 13 * 60  # seconds for the whole part, after which no larger sizes are measured
LINEAR = 1.15  # the largest exponent that counts as linear, because caches and overheads bend a line


def growth(quick: bool) -> Rows:
    """Time of adapt, predict and a step, and its memory, against each of N, M, C, T and width; and the exponents.

    `peak_mb` is the memory that a step needs beyond what the process held before, `kept_mb` what the forward pass keeps
    for the backward pass. Exponents are of the larger half of the sizes.
    """
    rows: Rows = []
    end = time.monotonic() + PATIENCE
    for name in GROWN[:3:2] if quick else GROWN:
        for axis in ("support", "width") if quick else START:
            rows.append(
                {"learner": name, "axis": axis, **_curve(name, axis, START[axis] * 2 if quick else MOST[axis], end)}
            )
            print(name, axis, *(rows[-1][what] for what in ("sizes", "exponent")), flush=True)
    return rows


def _curve(name: str, axis: str, most: int, end: float) -> dict[str, Any]:
    start = START | FEW.get(axis, {})
    sizes, points = [start[axis]], [_alone(name, start)]
    while 2 * sizes[-1] <= most and 4 * points[-1]["training_ms"] < 1e3 * SECONDS:
        if 4 * points[-1]["peak_mb"] > MEGABYTES or time.monotonic() > end:
            break
        sizes.append(2 * sizes[-1])
        points.append(_alone(name, start | {axis: sizes[-1]}))
    measured = [what for what in points[0] if all(point[what] > 0 for point in points)]
    fitted = {what: exponent(sizes, [point[what] for point in points]) for what in measured} if len(sizes) > 1 else {}
    linear = {what: fitted[what] <= LINEAR for what in ("training_ms", "peak_mb") if what in fitted}
    return {
        "sizes": sizes,
        "smallest": sizes[0],
        "largest": sizes[-1],
        "exponent": fitted,
        "linear": linear,
        "points": points,
    }


def _alone(name: str, size: dict[str, int]) -> dict[str, float]:
    """A point in a process of its own, for memory that an earlier one has freed would hide some of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["growth", "torch._dynamo"])  # which the first optimizer imports
    with ProcessPoolExecutor(1, context, keep_freed_memory) as process:
        return process.submit(_point, name, size).result()


def _point(name: str, size: dict[str, int]) -> dict[str, float]:
    import torch

    spec = TaskSpec((4,), Classes(size["classes"]))
    objective = objective_for(lambda spec: getattr(learners, name)(spec, width=size["width"]), spec)
    episodes = make_episodes(spec, size["tasks"], size["support"], size["query"]).to(DEVICE)
    learner, step = objective.learner, training_step(objective, lambda: objective(episodes)["loss"].mean())
    kept = kept_bytes(objective, episodes) / 1e6
    step()  # creates the optimizer's state
    before = forget_peak()
    training = milliseconds(step)
    peak = memory_mb() - before
    training = min([training, *(milliseconds(step) for _ in range(2 if training < 1000 else 0))])
    learner.eval()
    with torch.no_grad():
        adapt = min(milliseconds(lambda: learner.adapt(episodes.support)) for _ in range(2))
        phi = learner.adapt(episodes.support)
        predict = min(milliseconds(lambda: learner.predict(phi, episodes.query.x)) for _ in range(2))
    return {"adapt_ms": adapt, "predict_ms": predict, "training_ms": training, "kept_mb": kept, "peak_mb": peak}


TWO = {
    "glyphs-5w1s-incontext": [],
    "gp-rbf-tnpd": ["--outer.n_tasks", "64"],
    "recall-lstm": ["--outer.n_tasks", "256"],
}
WAYS = {"one_process": (1, 1), "two_processes": (2, 1), "two_threads": (1, 2)}  # processes, threads


def two_processes(quick: bool) -> Rows:
    """Two processes of one thread each, sharing a batch, beside one process; and two threads of one process.

    `share` is the time of one process over twice that of the other: at most 1 on two cores.
    """
    rows: Rows = []
    for recipe, options in list(TWO.items())[-1:] if quick else TWO.items():
        ms: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(1 if quick else 3):
            for way in list(WAYS) if number % 2 == 0 else reversed(WAYS):
                ms[way].append(_step_ms(recipe, options, *WAYS[way], block=2 if quick else 15))
        one = ms.pop("one_process")
        shares = {
            f"share_{way}": quartiles([a / (2 * b) for a, b in zip(one, found, strict=True)])
            for way, found in ms.items()
        }
        all_ms = {f"ms_{way}": quartiles(found) for way, found in {"one_process": one, **ms}.items()}
        rows.append({"recipe": recipe, **shares, **all_ms})
    return rows


def _step_ms(recipe: str, options: list[str], processes: int, threads: int, block: int) -> float:
    """The time of a step of `metabox train` by the clock of its loop, without the first block of steps."""
    with tempfile.TemporaryDirectory() as out:
        outer = ("--outer.accelerator", "cpu", "--outer.devices", str(processes), "--outer.steps", str(5 * block))
        brief = ("--outer.validate_every", str(block), "--outer.n_validation", "2", "--n_test", "2")
        command = [sys.executable, "-W", "ignore", "-m", "metabox", "train", recipe, *options, *outer, *brief]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        subprocess.run([*command, "--out", f"{out}/run"], check=True, capture_output=True, env=environment)
        later = blocks(Path(out) / "run")[1:]
    return quartiles([1e3 * seconds / steps for steps, seconds in later])["median"]
