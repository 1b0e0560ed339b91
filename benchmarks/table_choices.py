"""Optimizers and levers of the learner of tables, at equal processor time, by validation on made-up tables.

    python benchmarks/table_choices.py                                 all choices that are not measured yet
    python benchmarks/table_choices.py --only columns "one key head"   some of them

Each choice is trained for as long as "columns" is for 3,000 steps, by the time that steps of both take in turn on one
thread, which fixes the number of steps. All are validated on the same 200 made-up tables, of validation's own draw, and
compared with "columns" task by task. One seed: differences of less than two standard errors say nothing, and others
may be of the seed. Writes results/table-choices.json beside this file after each choice; the same command goes on.

What lost and is no longer in the library stands in results/table-layouts.json, as this script measured it at the commit
that each row names.
"""

from __future__ import annotations

import argparse
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from manifest import RESULTS

import metabox
from metabox.files import read_json, write_json
from metabox.learners import TabularTransformer
from metabox.learners.base import Learner
from metabox.objectives import QueryLoss
from metabox.tasks import TabularPrior
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.training.environment import collect_environment
from metabox.training.optimizers import make_optimizer, parameter_groups

JOBS = [{"writes": "table-choices.json", "tier": "full", "minutes": 60, "threads": 1}]

SIZES: dict[str, Any] = {"n_rows": (32, 256), "n_columns": (1, 20)}
CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "columns": {},
    "columns, muon": {"outer": {"optimizer": "muon"}},
    "columns with their neighbours": {"learner": {"neighbours": True}},
    "one key head": {"learner": {"key_heads": 1}},
    "scaled attention": {"learner": {"scaled": True}},
    "additive model": {"learner": {"additive": True}},
    "one large table": {"outer": {"n_tasks": 1}, "prior": {"n_rows": [256, 256]}},
}
"""Options beside the defaults, but for as many key heads as heads and 8 learned tokens of a column."""


def prior(**options: Any) -> TabularPrior:
    return TabularPrior(**{**SIZES, "share_sizes": 4, **options})


def learner(choice: dict[str, dict[str, Any]]) -> Any:
    """Builds the learner of a choice from a spec."""
    return partial(TabularTransformer, **{"key_heads": 4, "induced": 8, **choice.get("learner", {})})


def loop(steps: int, n_tasks: int = 4, lr: float = 1e-3, **options: Any) -> metabox.OuterLoop:
    """As in the recipes, but for an average over fewer of the last weights, since there are fewer."""
    shared: dict[str, Any] = {"average": 0.99, "warmup": min(100, steps // 10), "n_validation": 4}
    return metabox.OuterLoop(steps=steps, n_tasks=n_tasks, lr=lr, clip=1.0, validate_every=steps, **shared, **options)


class Stepper:
    """Training steps, one at a time."""

    def __init__(self, tasks: EpisodeSampler, learner: Learner, outer: metabox.OuterLoop) -> None:
        self.tasks, self.outer, self.objective = tasks, outer, QueryLoss(learner)
        groups = parameter_groups(self.objective, muon=outer.optimizer == "muon")
        self.optimizer = make_optimizer(outer, groups)

    @classmethod
    def of(cls, choice: dict[str, dict[str, Any]]) -> Stepper:
        """Steps of a choice."""
        tasks = prior(**choice.get("prior", {}))
        torch.manual_seed(0)
        return cls(tasks, learner(choice)(tasks.spec), loop(100, **choice.get("outer", {})))

    def seconds(self, index: int) -> tuple[float, float]:
        """Draw the tables of a step, and take it; seconds of the processor for each."""
        begun = time.process_time()
        tables = self.tasks.sample(Place(self.outer.n_tasks, index=index))
        drawn = time.process_time()
        self.objective(tables)["loss"].mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return drawn - begun, time.process_time() - drawn


def price(choice: dict[str, dict[str, Any]], n: int = 40) -> tuple[float, float]:
    """Seconds of a step of a choice and of "columns", taken in turn, so that what else runs slows both."""
    both = Stepper.of(choice), Stepper.of({})
    spent = [[sum(one.seconds(index)) for one in both] for index in range(n + 3)][3:]
    return float(np.mean([pair[0] for pair in spent])), float(np.mean([pair[1] for pair in spent]))


def measured(choice: dict[str, dict[str, Any]], of_columns: int, out: Path) -> dict[str, Any]:
    own, theirs = price(choice) if choice else (1.0, 1.0)
    steps = round(of_columns * theirs / own)
    outer, tasks = loop(steps, **choice.get("outer", {})), prior(**choice.get("prior", {}))
    begun = time.process_time()
    trained = metabox.run(tasks, learner(choice), outer, evaluation=prior(), scale="none", out=out)
    spent = time.process_time() - begun
    scores = metabox.evaluate(trained, prior(), split="val", n_tasks=200, batch=4)
    environment = collect_environment()
    return {
        "options": told(choice),
        "parameters": sum(p.numel() for p in trained.parameters()),
        "price_of_a_step": round(own / theirs, 3),
        "steps": steps,
        "seconds": round(spent, 1),
        "accuracy": round(float(scores.mean("accuracy")), 4),
        "nll": round(float(scores.mean("nll")), 4),
        "git_commit": environment["git_commit"],
        "git_tree": environment["git_tree"],
        "nlls": [round(float(value), 4) for value in scores.per_task["nll"]],
    }


def told(choice: dict[str, dict[str, Any]]) -> str:
    """The options of a choice in a line."""
    return " ".join(f"{name}={value}" for part in choice.values() for name, value in part.items())


def compared(rows: dict[str, dict[str, Any]]) -> None:
    """Add to each choice its mean difference from "columns" over tasks, and the standard error."""
    if "columns" not in rows:
        return
    for row in rows.values():
        difference = np.array(row["nlls"]) - np.array(rows["columns"]["nlls"])
        row["difference"] = round(float(difference.mean()), 4)
        row["standard_error"] = round(float(difference.std(ddof=1) / len(difference) ** 0.5), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(CHOICES), choices=list(CHOICES))
    parser.add_argument("--steps", type=int, default=3000, help='of "columns"')
    parser.add_argument("--runs", type=Path, default=Path("runs/table-choices"))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = args.results / "table-choices.json"
    kept: dict[str, Any] = read_json(path) if path.is_file() else {}
    of_this = [row for row in kept.get("choices", ()) if kept["steps"] == args.steps and row["choice"] in CHOICES]
    rows = {row["choice"]: row for row in of_this}
    for name in args.only:
        if name in rows and rows[name]["options"] == told(CHOICES[name]):
            continue
        out = args.runs / name.replace(", ", "-").replace(" ", "-")
        shutil.rmtree(out, ignore_errors=True)  # the time of a step may have changed, and with it the number of steps
        rows[name] = {"choice": name, **measured(CHOICES[name], args.steps, out)}
        compared(rows)
        about = {"steps": args.steps, "validation_tasks": 200}
        write_json(path, {**about, "choices": list(rows.values()), "environment": collect_environment()})
        shown = {key: value for key, value in rows[name].items() if key != "nlls"}
        print(f"{name}: {shown}", flush=True)


if __name__ == "__main__":
    main()
