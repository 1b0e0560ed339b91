"""Weightings, surgeries and ways of sharing against the plain sum of the losses, on made-up tasks, tuned alike.

    OMP_NUM_THREADS=1 python benchmarks/methods.py                         # every set; hours, a stopped run goes on
    OMP_NUM_THREADS=1 python benchmarks/methods.py --sets spam --seeds 0 1 # some; rows of other sets in the file stay

Sets: `scenes` (segmentation, depth, normals), `shapes` (eight attributes, a fifth of the labels missing),
`recommendation` (four targets of viewers) and `spam` (40 users). Every method gets the same three learning rates, and
"tuned sum" six vectors of weights as well: that of the best average relative change against the plain sum on
validation, with seed 0, is trained with all seeds. A change is paired within a seed, on the test split: `delta_percent`
is the mean over tasks of the relative change of a task's score (Maninis et al. 2019). Intervals are of the mean over
seeds, by Student's t, with Holm's correction within a set. Real targets are predicted with a fixed noise, so that all
methods minimise the same losses. Beside each row stand the steps of a run and the hours of all its runs, tuning
included.

Writes results/methods.json beside this file after each set; a finished run is not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, cast

import torch
from readings import log_of
from verdicts import holm

import metabox
from metabox import OuterLoop
from metabox.episodes import Split
from metabox.files import read_json, write_json
from metabox.learners import MTAN, PLE, CrossStitch, DenseMultiTask, HardSharing, Independent, MMoE, SoftSharing
from metabox.learners.base import Learner
from metabox.multitask import DWA, GradNorm, Random, Surgery, Uncertainty, WorstCase
from metabox.multitask.pixel_scores import pixel_scores
from metabox.multitask.surgery import METHODS
from metabox.multitask.transfer import delta_percent
from metabox.multitask.weights import Fixed
from metabox.nn.backbones import MLP, Conv4
from metabox.nn.unet import UNet
from metabox.targets import Parts, Reals, Target
from metabox.tasks.multitask.recommendation import Viewers
from metabox.tasks.multitask.scenes import Scenes
from metabox.tasks.multitask.shapes import ATTRIBUTES, Shapes
from metabox.tasks.multitask.spam import MadeMail
from metabox.tasks.sampler import EpisodeSampler
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "methods.json", "tier": "full", "minutes": 240, "threads": 1},
]

RESULTS = Path(__file__).parent / "results" / "methods.json"
LEARNING_RATES = (1 / 3, 1.0, 3.0)  # times that of the set, which suits the plain sum
VECTORS = 6
SUM, TUNED = "sum", "tuned sum"
Scored = dict[str, Any]


class Set(NamedTuple):
    """Tasks, the network that weightings train, and other networks; `metrics`: the score of each task."""

    tasks: Callable[[], EpisodeSampler]
    learner: Callable[..., Learner]
    outer: OuterLoop
    metrics: Mapping[str, str] | str
    others: Mapping[str, Callable[..., Learner]]


def outer(steps: int, n_tasks: int, lr: float, **more: Any) -> OuterLoop:
    return OuterLoop(steps=steps, n_tasks=n_tasks, lr=lr, warmup=50, validate_every=steps // 4, n_validation=20, **more)


SETS = {
    "scenes": Set(
        partial(Scenes, n_query=4),
        partial(DenseMultiTask, backbone=partial(UNet, width=16, depth=3)),
        outer(300, 4, 9e-3),
        {"segmentation": "segmentation_miou", "depth": "depth_absolute_error", "normals": "normals_angle"},
        {"mtan": partial(MTAN, width=16, depth=3)},
    ),
    "shapes": Set(
        partial(Shapes, n_query=32, parts=True, missing=0.2),
        partial(DenseMultiTask, backbone=partial(Conv4, width=16, downsample="stem")),
        outer(400, 2, 6e-3),
        {name: f"accuracy_{name}" for name in ATTRIBUTES},
        {
            "mmoe": partial(MMoE, backbone=partial(Conv4, width=16, downsample="stem"), expert_size=32, tower_size=16),
        },
    ),
    "recommendation": Set(
        partial(Viewers, correlation=0.5, n_query=256),
        partial(HardSharing, backbone=partial(MLP, width=96, depth=2)),
        outer(1500, 1, 3e-3, weight_decay=0.0),
        {
            "clicked": "accuracy_clicked",
            "watched": "squared_error_watched",
            "liked": "accuracy_liked",
            "rating": "squared_error_rating",
        },
        {
            "mmoe": partial(MMoE, n_experts=8, expert_size=32, tower_size=16, expert_dropout=0.1),
            "ple": partial(PLE, levels=2, task_experts=2, shared_experts=2, expert_size=32, tower_size=16),
            "cross-stitch": partial(CrossStitch, width=32, depth=2),
            "soft sharing": partial(SoftSharing, strength=0.01, width=32, depth=2),
            "independent": partial(Independent, width=32, depth=2),
        },
    ),
    "spam": Set(
        partial(MadeMail, n_users=40, n_query=16),
        partial(HardSharing, backbone=partial(MLP, width=64, depth=1)),
        outer(800, 16, 9e-3, weight_decay=0.1),
        "accuracy",
        {"independent": partial(Independent, width=64, depth=1)},
    ),
}
WEIGHTINGS: dict[str, Callable[[int], Any]] = {
    "uncertainty": Uncertainty,
    "gradnorm": GradNorm,
    "dwa": DWA,
    "random weights": Random,
    "worst case": WorstCase,
    **{method: partial(Surgery, method=method) for method in METHODS},
}


def fixed_noise(target: Target) -> Target:
    """The same target, reals with a noise of 1 in standard units."""
    if isinstance(target, Parts):
        return Parts([replace(part, target=fixed_noise(part.target)) for part in target.parts])
    return Reals(target.size, noise=1) if isinstance(target, Reals) else target


def vector(number: int, n_losses: int) -> list[float]:
    """K softmax(z), z standard normal."""
    z = torch.randn(n_losses, generator=torch.Generator().manual_seed(number))
    return [round(w, 4) for w in (n_losses * z.softmax(0)).tolist()]


def weights_of(number: int, n_losses: int) -> str:
    """A vector of weights, or its number if it is long."""
    return str(vector(number, n_losses)) if n_losses <= 8 else f"number {number} of {VECTORS}"


def scores(learner: Learner, of: Set, split: Split) -> dict[str, float]:
    """The score of each task."""
    tasks = of.tasks()
    if isinstance(of.metrics, str):
        return metabox.evaluate(learner, tasks, split=split, n_tasks=10 * len(tasks.spec.tasks)).by_task(of.metrics)
    if any(part.spatial for part in tasks.spec.target.parts):
        found = pixel_scores(learner, tasks, split=split, n_tasks=50)
    else:
        found = metabox.evaluate(learner, tasks, split=split, n_tasks=50).means()
    return {task: found[metric] for task, metric in of.metrics.items()}


def scored(name: str, method: str, lr: float, number: int | None, seed: int, args: argparse.Namespace) -> Scored:
    """Train once, and score on validation and test; `number` is that of a vector of weights, None for none.

    Of a run whose loss did not stay finite there is only its error, and it is never chosen.
    """
    of = SETS[name]
    told = re.sub(" ", "-", f"methods-{name}-{method}" + ("" if number is None else f"-{number}"))
    out: Path = args.runs / f"{told}-{lr:.3g}x-{args.share:g}-seed{seed}"
    kept = out / "scored.json"
    if kept.exists():
        return cast(Scored, read_json(kept))
    tasks, steps = of.tasks(), max(4, math.ceil(args.share * of.outer.steps))
    settings = replace(of.outer, steps=steps, lr=lr * of.outer.lr, validate_every=max(1, steps // 4))
    weighting = WEIGHTINGS.get(method)
    if number is not None:
        n_losses = len(tasks.spec.tasks) or len(tasks.spec.target.parts)
        weighting = partial(Fixed, weights=vector(number, n_losses))
    target = fixed_noise(tasks.spec.target)
    make = of.others.get(method, of.learner)
    begun = time.monotonic()
    try:
        learner = metabox.run(tasks, make, settings, weighting=weighting, target=target, seed=seed, out=out)
    except FloatingPointError as error:
        got: Scored = {"diverged": str(error), "seconds": time.monotonic() - begun, "run": out.name}
        write_json(kept, got)
        return got
    got = {
        "validation": scores(learner, of, "val"),
        "test": scores(learner, of, "test"),
        "seconds": log_of(out)[-1]["seconds"],
        "steps": steps,
        "parameters": sum(p.numel() for p in learner.parameters()),
        "run": out.name,
    }
    write_json(kept, got)
    return got


def chosen(name: str, method: str, args: argparse.Namespace) -> tuple[float, int | None, list[Scored]]:
    """The learning rate (a factor) and vector of weights of a method, and all that was trained to choose them."""
    reference = scored(name, SUM, 1.0, None, 0, args)["validation"]
    tried: list[tuple[float, int | None]] = [(lr, None) for lr in LEARNING_RATES]
    if method == TUNED:
        best, _, _ = chosen(name, SUM, args)
        tried = [(best, number) for number in range(VECTORS)]
    runs = [scored(name, method, *setting, 0, args) for setting in tried]
    gains = [
        -math.inf if "diverged" in run else delta_percent(run["validation"], reference, SETS[name].metrics)
        for run in runs
    ]
    lr, number = tried[max(range(len(tried)), key=gains.__getitem__)]
    return lr, number, runs


def rows_of(name: str, methods: list[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each method, with what it changes against the plain sum."""
    of, lines, changes = SETS[name], {}, {}
    plain: dict[int, Any] = {}
    for method in methods:
        lr, number, tuning = chosen(name, method, args)
        runs = {seed: scored(name, method, lr, number, seed, args) for seed in args.seeds}
        if lost := [run for run in runs.values() if "diverged" in run]:
            raise SystemExit(f"{lost[0]['run']}: {lost[0]['diverged']}")
        plain = plain or {seed: run["test"] for seed, run in runs.items()}
        if method != SUM:
            changes[method] = [delta_percent(runs[s]["test"], plain[s], of.metrics) for s in args.seeds]
        tasks = {task: fmean(run["test"][task] for run in runs.values()) for task in runs[args.seeds[0]]["test"]}
        of_all = {"mean": fmean(tasks.values()), "least": min(tasks.values())} if len(tasks) > 8 else tasks
        spent = {run["run"]: run["seconds"] for run in [*tuning, *runs.values()]}
        lines[method] = {
            "method": method,
            "parameters": runs[args.seeds[0]]["parameters"],
            "lr": round(lr * of.outer.lr, 6),
            **({} if number is None else {"weights": weights_of(number, len(tasks))}),
            **{task: round(value, 4) for task, value in of_all.items()},
            "seeds": len(args.seeds),
            "steps": runs[args.seeds[0]]["steps"],
            "hours": round(sum(spent.values()) / 3600, 3),
        }
        print(json.dumps({"set": name} | lines[method]), flush=True)
    verdicts = holm(changes) if changes and len(args.seeds) > 1 else {}
    return [line | verdicts.get(method, {}) for method, line in lines.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--methods", nargs="+", help="beside the sum; by default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--share", type=float, default=1.0, help="of the steps, for a trial")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    content: dict[str, Any] = read_json(args.out) if args.out.exists() else {}
    for name in args.sets:
        known = [TUNED, *WEIGHTINGS, *SETS[name].others]
        if unknown := set(args.methods or ()) - set(known):
            parser.error(f"expected methods of {name} among {', '.join(known)}, got {', '.join(sorted(unknown))}")
        content[name] = rows_of(name, [SUM, *(args.methods or known)], args)
        write_json(args.out, content | {"environment": collect_environment()})


if __name__ == "__main__":
    main()
