"""What a step of `metabox.run` spends its time on, for the four recipes whose steps are the shortest.

    OMP_NUM_THREADS=1 python benchmarks/profile_steps.py            # five minutes at most
    OMP_NUM_THREADS=1 python benchmarks/profile_steps.py --quick    # shows that it works, measures nothing

All recipes of against_recipes.py are timed, each in a process of its own on one thread; the four shortest are then
profiled by torch. A step is a whole one, from one call of its sampler to the next. `sampling` and `optimizer` are all
that happens inside them, with their Python; `other operations` are all of torch's that have no column, forward and
backward; `Python` is the time in none of them. The profiler itself takes time, most of it where operations are small:
`profiled_ms` is a step with it, which the shares are of. Writes results/profile.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from against_recipes import RECIPES
from alone import Alone, Tell
from gpu_measures import Enough, Watch

from metabox import recipe as recipes
from metabox.episodes import Device, Episodes
from metabox.files import write_json
from metabox.tasks.place import Place
from metabox.training.environment import collect_environment
from metabox.training.loop import run

JOBS = [
    {"writes": "profile.json", "tier": "quick", "minutes": 3, "threads": 1},
]

RESULTS = Path(__file__).parent / "results" / "profile.json"
SAMPLING = "sampling"
KINDS = {
    SAMPLING: (SAMPLING,),
    "optimizer": ("Optimizer.step",),
    "attention": ("aten::scaled_dot_product", "aten::_scaled_dot_product"),
    "convolution": ("aten::conv", "aten::_conv", "aten::mkldnn_conv", "aten::slow_conv"),
    "matrix products": ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"),
}
"""How the names of operations begin. An operation counts with all that it calls."""
OTHER, PYTHON = "other operations", "Python"


def shares(events: Iterable[Any], total_us: float) -> dict[str, float]:
    """The share of each kind in the time of the profiled steps; they add up to 1.

    Args:
        events: of the profiler, in one thread.
        total_us: the time in all, in microseconds.
    """
    spent = dict.fromkeys((*KINDS, OTHER), 0.0)

    def add(event: Any) -> None:
        kind = next((kind for kind, starts in KINDS.items() if event.name.startswith(starts)), None)
        if kind is not None:
            spent[kind] += event.time_range.elapsed_us()
            return
        inside = sum(child.time_range.elapsed_us() for child in event.cpu_children)
        spent[OTHER] += event.time_range.elapsed_us() - inside
        for child in event.cpu_children:
            add(child)

    for event in events:
        if event.cpu_parent is None:
            add(event)
    found = {kind: us / total_us for kind, us in spent.items()}
    return {kind: round(share, 4) for kind, share in (found | {PYTHON: 1 - sum(found.values())}).items()}


class Profiled(Watch):
    """The tasks of a run, timed; and profiled, if asked."""

    def __init__(self, *arguments: Any, steps: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._profiled = steps

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        self._calls += 1
        if self._calls > 1:
            next(self._steps)
        with torch.profiler.record_function(SAMPLING):
            return self._tasks.sample(place, device)

    def _looked_into(self, count: bool) -> Iterator[None]:
        if not self._profiled:
            return
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            yield  # the first step is slower
            begin = time.perf_counter()
            for _ in range(self._profiled):
                yield
            total = 1e6 * (time.perf_counter() - begin)
        events = list(profiler.events() or [])
        starts = sorted(event.time_range.start for event in events if event.name == SAMPLING)
        later = [event for event in events if event.time_range.start >= starts[1]]
        self._tell({"profiled_ms": round(total / 1e3 / self._profiled, 3), "share": shares(later, total)})


def measure(tell: Tell, name: str, seconds: float, profiled: int) -> None:
    """Time the steps of a recipe inside `run`, and profile a number of them."""
    torch.set_num_threads(1)
    _, recipe, options = RECIPES[name]
    parser = recipes.make_parser(recipes.find(recipe))
    made = parser.instantiate(recipes.parse(parser, options))
    outer = replace(made.outer, accelerator="cpu", steps=10**6, validate_every=10**6, schedule="constant")
    tasks = Profiled(made.tasks, tell, "cpu", seconds, False, steps=profiled)
    more = {"objective": made.objective, "weighting": made.weighting, "target": made.target, "scale": made.scale}
    tell({"tasks": outer.n_tasks})
    with tempfile.TemporaryDirectory() as out, suppress(Enough):
        run(tasks, made.learner, outer, evaluation=made.evaluation or made.tasks, out=out, **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--profiled", type=int, default=4, help="how many of them are profiled, the shortest first")
    parser.add_argument("--quick", action="store_true", help="few steps")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    began = time.perf_counter()
    recipes.make_parser()  # imports every class, once for all processes
    window, steps, limit = (0.05, 5, 60) if options.quick else (0.5, 100, 60)

    def alone(name: str, profiled: int) -> dict[str, Any]:
        found = Alone(measure, name, window, profiled, seconds=limit).result()
        row: dict[str, Any] = {"recipe": name, "kind": RECIPES[name][0]}
        kept = ("tasks", "step_ms", "profiled_ms", "share", "left_out")
        row |= {key: found[key] for key in kept if key in found}
        if "step_ms" in row:
            row["step_ms"].pop("mean")
        print(row, flush=True)
        return row

    timed = sorted((alone(name, 0) for name in options.recipes), key=_median)
    shortest = [row["recipe"] for row in timed if "step_ms" in row][: options.profiled]
    rows = [alone(name, steps) for name in shortest]
    about = {"seconds": round(time.perf_counter() - began), "profiled_steps": steps, **collect_environment()}
    write_json(options.out, {"measured_with": about, "steps": rows, "timed": timed})


def _median(row: dict[str, Any]) -> float:
    return float(row["step_ms"]["median"]) if "step_ms" in row else float("inf")


if __name__ == "__main__":
    main()
