"""In-context learning compared with known optima.

    python benchmarks/incontext.py linear             # error by prefix length, beside that of ridge regression
    python benchmarks/incontext.py recall --minutes 4 # error by sequence length, beyond the lengths of training
    python benchmarks/incontext.py remedies           # ways out of the plateau before in-context learning appears

Each command trains what it needs, resumes stopped runs, and writes results/incontext-COMMAND.json beside this file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from published import steps_for
from readings import log_of

import metabox
from metabox.cli.main import main as command
from metabox.files import write_json
from metabox.learners import GPICL
from metabox.learners.base import Learner
from metabox.nn.backbones import Flatten
from metabox.objectives import StreamLoss
from metabox.recipe import load_run
from metabox.tasks import AssociativeRecall, Glyphs, LinearFunctions
from metabox.tasks.functions.baselines import least_squares, ridge
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.curriculum import Curriculum, Growth
from metabox.tasks.wrappers.fixed_labels import FixedLabels
from metabox.tasks.wrappers.projections import RandomProjections
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "incontext-linear.json", "arguments": "linear", "tier": "full", "minutes": 40, "threads": 1},
    {"writes": "incontext-recall.json", "arguments": "recall", "tier": "full", "minutes": 20, "threads": 1},
    {"writes": "incontext-remedies.json", "arguments": "remedies", "tier": "full", "minutes": 40, "threads": 1},
]

Row = dict[str, Any]
Point = tuple[int, float, float]
LONGEST = 24  # pairs of a recall task; training has at most 6
PARTS = 20  # of 200 tasks each
PLAIN = metabox.OuterLoop(
    steps=2000, n_tasks=32, lr=1e-3, optimizer="adam", weight_decay=0, schedule="constant", clip=1, n_validation=100
)


def trained(recipe: str, folder: Path, *options: str) -> tuple[Learner, Row]:
    """The learner of a recipe, trained if it is not yet, and the cost of its training."""
    if command(["train", recipe, "--out", str(folder), *options]):
        raise SystemExit(2)
    last = log_of(folder)[-1]
    return load_run(folder)[0], {"recipe": recipe, "steps": last["step"], "training_seconds": round(last["seconds"], 1)}


def linear(args: argparse.Namespace) -> Row:
    """Squared errors by prefix length: of the learner, of the best predictor (ridge regression) and of least squares.

    Ridge predicts the posterior mean, so the expected excess error of a prediction is its squared distance to it.
    """
    recipe = "linear-5d-incontext"
    learner, run = trained(recipe, args.runs / recipe)
    dim, noise = 5, 0.5
    rows = []
    for k in range(21):
        tasks = LinearFunctions(dim=dim, noise=noise, n_support=k, n_query=20, oracle=False)
        target = tasks.spec.target
        assert isinstance(target, metabox.Reals)
        sums = torch.zeros(4, dtype=torch.float64)
        for part in range(PARTS):
            episodes = tasks.sample(Place(200, "test", first=200 * part))
            with torch.no_grad():
                mean, _ = target.mean_and_scale(learner(episodes))
            x, y, s = episodes.query.x, episodes.query.y, episodes.support
            best = ridge(s, x, penalty=noise**2)
            errors = (mean - y, best - y, least_squares(s, x) - y, mean - best)
            sums += torch.stack([e.double().square().mean() for e in errors]) / PARTS
        own, optimum, plain, excess = sums.tolist()
        rows.append(
            {
                "examples": k,
                "squared_error": round(own, 4),
                "ridge": round(optimum, 4),
                "least_squares": round(plain, 4),
                "excess_percent": round(100 * excess / optimum, 2),
                "excess_percent_of_error_without_noise": round(100 * excess / (optimum - noise**2), 2),
            }
        )
    beyond = [row for row in rows if row["examples"] > dim]
    worst = {f"largest_{name}": max(row[name] for row in beyond) for name in rows[0] if name.startswith("excess")}
    return {"run": run, "beyond_dim": {"dim": dim, "noise": noise, **worst}, "prefixes": rows}


def recall(args: argparse.Namespace) -> Row:
    """Percent of wrong bits by number of pairs, for learners trained on 2 to 6 pairs."""
    lengths = range(2, LONGEST + 1)
    rows: list[Row] = [{"pairs": n, "trained": n <= 6} for n in lengths]
    runs = []
    for name in ("lstm", "mann", "gpicl", "incontext"):
        recipe = f"recall-{name}"
        steps = steps_for(recipe, 60 * args.minutes, args.runs / f"{recipe}-{args.minutes:g}min.json", [])
        options = ["--outer.steps", str(steps), "--outer.validate_every", str(max(1, steps // 4))]
        learner, run = trained(recipe, args.runs / f"{recipe}-{args.minutes:g}min", *options)
        runs.append(run)
        for row in rows:
            tasks = AssociativeRecall(length=row["pairs"], n_query=2, key_bits=8, value_bits=8)
            accuracy = metabox.evaluate(learner, tasks, n_tasks=500).mean("accuracy")
            row[f"{name}_wrong_bits_percent"] = round(100 * (1 - accuracy), 2)
    return {"minutes_of_training": args.minutes, "runs": runs, "lengths": rows}


class ThreeGlyphs(Glyphs):
    """Generated characters of three classes: the same ones in every task, and in every split."""

    def __init__(self) -> None:
        super().__init__(image_size=8, wobble=0.0, n_way=3, n_shot=3, n_query=1)
        self._images.splits = {split: np.arange(3) for split in self._images.splits}


def remedies(args: argparse.Namespace) -> Row:
    """When validation leaves the plateau, for each remedy alone, with as many training tasks as without."""
    lines, maps = LinearFunctions(dim=2, noise=0.5, n_support=10, oracle=False), RandomProjections(ThreeGlyphs())
    problems: list[tuple[str, EpisodeSampler, float, str, EpisodeSampler]] = [
        ("linear functions", lines, 1.45, "curriculum", Curriculum(lines, Growth(1, 1, 200), Growth(3, 2, 40))),
        ("random projections", maps, 0.65, "fixed labels in half of the tasks", FixedLabels(maps, 0.5)),
    ]
    rows = []
    for problem, tasks, left, name, own in problems:
        variants = {
            "none": (tasks, PLAIN),
            "4 times the tasks of a step": (tasks, replace(PLAIN, n_tasks=128, steps=PLAIN.steps // 4)),
            "epsilon 1e-12 instead of 1e-8": (tasks, replace(PLAIN, epsilon=1e-12)),
            "epsilon 1e-4 instead of 1e-8": (tasks, replace(PLAIN, epsilon=1e-4)),
            name: (own, PLAIN),
        }
        for number, (remedy, (sampler, outer)) in enumerate(variants.items()):
            out = args.runs / f"remedies-{problem.replace(' ', '-')}-{number}"
            curve = validated(sampler, tasks, replace(outer, validate_every=outer.steps // 20), out)
            rows.append({"problem": problem, "remedy": remedy, **exit_of(curve, left, outer.n_tasks)})
    return {"remedies": rows}


def validated(tasks: EpisodeSampler, evaluation: EpisodeSampler, outer: metabox.OuterLoop, out: Path) -> list[Point]:
    """Train a GPICL; returns its validation curve: step, seconds of training, negative log likelihood."""
    learner = partial(GPICL, backbone=Flatten, width=64, depth=2)
    metabox.run(tasks, learner, outer, objective=StreamLoss, evaluation=evaluation, scale="none", out=out)
    return [(line["step"], line["seconds"], line["val"]["nll"]) for line in log_of(out) if "val" in line]


def exit_of(curve: list[Point], left: float, n_tasks: int) -> Row:
    """The first point of a curve below `left`; None if there is none."""
    step, seconds, _ = next((point for point in curve if point[2] < left), (None, None, None))
    return {
        "left_below_nll": left,
        "left_at_step": step,
        "left_after_tasks": step and step * n_tasks,
        "left_after_seconds": seconds and round(seconds, 1),
        "last_nll": round(curve[-1][2], 3),
        "steps": curve[-1][0],
        "seconds": round(curve[-1][1], 1),
        "curve": [[step, round(seconds, 1), round(nll, 3)] for step, seconds, nll in curve],
    }


COMMANDS = {"linear": linear, "recall": recall, "remedies": remedies}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4, help="of training for each recipe of `recall`")
    measure("incontext", COMMANDS, parser)


Commands = Mapping[str, Callable[[argparse.Namespace], Row]]


def measure(title: str, commands: Commands, parser: argparse.ArgumentParser) -> None:
    """Run the requested command, and write its result to results/TITLE-COMMAND.json beside this file."""
    parser.add_argument("command", choices=commands)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    result = commands[args.command](args)
    write_json(
        Path(__file__).parent / "results" / f"{title}-{args.command}.json",
        {"environment": collect_environment(), **result},
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
