"""MMoE and PLE against a shared bottom of their size as the correlation of tasks falls (Ma et al. 2018, figure 4).

    OMP_NUM_THREADS=1 python benchmarks/correlation.py
    OMP_NUM_THREADS=1 python benchmarks/correlation.py --correlations 1 0.5 --seeds 0 1 --steps 500

Each seed has its own pair of regressions (`CorrelatedRegressions`, `data_seed`), training data and initial weights, the
same for all networks. Each network has the learning rate, of the same three, with the least validation error, the mean
over the correlations with the first seed. A stopped run resumes when the script is called again, a finished one is not
repeated. Writes results/correlation.json beside this file, and for all correlations and twenty seeds the figure: for
each correlation the mean errors and the differences within seeds (Holm's correction over all of them), in percent of
the shared bottom's error.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from readings import log_of
from svg import write_svg
from verdicts import holm

from metabox import OuterLoop, evaluate, run
from metabox.episodes import Split
from metabox.evaluation import interval_of
from metabox.files import read_json, write_json
from metabox.learners.base import Learner
from metabox.learners.multitask.experts import PLE, MMoE
from metabox.targets import TaskSpec
from metabox.tasks.multitask.recommendation import CorrelatedRegressions
from metabox.tasks.place import Place
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "correlation.json", "tier": "full", "minutes": 50, "threads": 1},
]

RESULTS = Path(__file__).parent / "results" / "correlation.json"
FIGURE = Path(__file__).parents[1] / "docs" / "_static" / "correlation.svg"
EXPERTS, EXPERT, TOWER = 8, 16, 8  # of MMoE: number of experts, units of each, units of a tower
LEARNING_RATES = (3e-3, 1e-2, 3e-2)
BOTTOM = "shared bottom"
Row = dict[str, Any]


def size(learner: Learner) -> int:
    """The number of parameters; the gates of a single expert have no effect and do not count."""
    one = isinstance(learner, MMoE) and learner.n_experts == 1
    gates = sum(p.numel() for p in cast(MMoE, learner).gates.parameters()) if one else 0
    return sum(p.numel() for p in learner.parameters()) - gates


def smallest(make: Callable[..., Learner], spec: TaskSpec, wanted: int) -> partial[Learner]:
    """The network with the narrowest experts that has at least as many parameters as wanted."""
    width = 1
    while size(make(spec, expert_size=width)) < wanted:
        width += 1
    return partial(make, expert_size=width)


def networks(spec: TaskSpec) -> dict[str, Callable[[TaskSpec], Learner]]:
    """MMoE, PLE of a level, and a shared bottom: one expert. All have the same towers."""
    mmoe = partial(MMoE, n_experts=EXPERTS, expert_size=EXPERT, tower_size=TOWER)
    wanted = size(mmoe(spec))
    ple = partial(PLE, levels=1, task_experts=2, shared_experts=4, tower_size=TOWER)
    bottom = partial(MMoE, n_experts=1, tower_size=TOWER)
    return {BOTTOM: smallest(bottom, spec, wanted), "MMoE": mmoe, "PLE": smallest(ple, spec, wanted)}


@torch.no_grad()
def error(learner: Learner, tasks: CorrelatedRegressions, split: Split) -> float:
    """Mean squared distance between predicted and true means: the squared error without the noise."""
    episodes = tasks.sample(Place(40, split, seed=1))
    true = torch.from_numpy(tasks.means(episodes.query.x.double().numpy()))
    return float((learner(episodes)[..., [0, 2]] - true).square().mean())


def row(correlation: float, name: str, lr: float, seed: int, args: argparse.Namespace) -> Row:
    """Train and evaluate once."""
    word = name.replace(" ", "-")
    out: Path = args.runs / f"correlation-{correlation:g}-{word}-{args.steps}-{lr:g}-seed{seed}"
    if (kept := out / "scored.json").exists():
        return dict(read_json(kept))
    tasks = CorrelatedRegressions(correlation, n_query=args.batch, data_seed=seed)
    outer = OuterLoop(
        steps=args.steps, n_tasks=1, lr=lr, weight_decay=0.0, validate_every=max(1, args.steps // 5), n_validation=10
    )
    learner = run(tasks, networks(tasks.spec)[name], outer, seed=seed, scale="none", out=out)
    got = {
        "correlation": correlation,
        "network": name,
        "lr": lr,
        "seed": seed,
        "parameters": size(learner),
        "training_seconds": round(log_of(out)[-1]["seconds"], 1),
        "validation_error": error(learner, tasks, "val"),
        "error": error(learner, tasks, "test"),
        "gap_to_oracle": evaluate(learner, tasks, n_tasks=40).mean("gap_to_oracle"),
    }
    write_json(kept, got)
    return got


def chosen(name: str, args: argparse.Namespace) -> tuple[float, list[Row]]:
    """The learning rate with the least validation error, and what was trained to choose it."""
    tried = [[row(p, name, lr, args.seeds[0], args) for p in args.correlations] for lr in LEARNING_RATES]
    best = min(tried, key=lambda rows: fmean(r["validation_error"] for r in rows))
    return best[0]["lr"], [r for rows in tried for r in rows]


def summary(rows: Sequence[Row]) -> list[Row]:
    """For each correlation and network the mean error, and the change against the shared bottom within seeds."""
    errors = {(r["correlation"], r["network"], r["seed"]): r["error"] for r in rows}
    about = {r["network"]: r for r in rows}
    lines: list[Row] = []
    changes: dict[str, list[float]] = {}
    for p in dict.fromkeys(r["correlation"] for r in rows):
        for name in about:
            seeds = [s for q, n, s in errors if (q, n) == (p, name) and (p, BOTTOM, s) in errors]
            found = [errors[p, name, s] for s in seeds]
            lines.append({"correlation": p, "network": name, "parameters": about[name]["parameters"]})
            lines[-1] |= {"lr": about[name]["lr"], "seeds": len(seeds), "error": fmean(found)}
            lines[-1] |= {"interval_95": interval_of(found) if len(found) > 1 else None}
            if name != BOTTOM:
                changes[f"{p:g} {name}"] = [
                    100 * (errors[p, BOTTOM, s] - errors[p, name, s]) / errors[p, BOTTOM, s] for s in seeds
                ]
    verdicts = holm(changes) if all(len(found) > 1 for found in changes.values()) else {}
    return [line | verdicts.get(f"{line['correlation']:g} {line['network']}", {}) for line in lines]


def draw(lines: Sequence[Row], out: Path = FIGURE) -> None:
    """The error by correlation, a line for each network, with its 95% intervals over seeds."""
    from matplotlib.figure import Figure

    from metabox.reports.figures import SERIES

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.add_subplot(xlabel="correlation p of the two tasks", ylabel="squared error without the noise")
    for color, name in zip(SERIES, dict.fromkeys(line["network"] for line in lines), strict=False):
        own = [line for line in lines if line["network"] == name]
        x, y, half = zip(*((line["correlation"], line["error"], line["interval_95"]) for line in own), strict=True)
        axes.errorbar(x, y, half, color=color, label=name, marker="o", markersize=3, capsize=3)
    axes.invert_xaxis()
    axes.legend(frameon=False)
    write_svg(figure, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--correlations", type=float, nargs="+", default=[1.0, 0.9, 0.5, 0.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256, help="examples per step")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    rates, tuning = {}, []
    for name in networks(CorrelatedRegressions().spec):
        rates[name], tried = chosen(name, args)
        tuning += tried
    rows: list[Row] = []
    for seed in args.seeds:
        for p in args.correlations:
            rows += [row(p, name, lr, seed, args) for name, lr in rates.items()]
        lines = summary(rows)
        spent = sum(r["training_seconds"] for r in rows) + sum(r["training_seconds"] for r in tuning if r not in rows)
        settings = {"steps": args.steps, "examples_of_a_step": args.batch, "hours": round(spent / 3600, 2)}
        write_json(args.out, {"settings": settings, "environment": collect_environment(), "networks": lines})
    for line in lines:
        print(json.dumps(line))
    if args.out == RESULTS and len(args.seeds) > 1:
        draw(lines)


if __name__ == "__main__":
    main()
