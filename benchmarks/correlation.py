"""MMoE against a shared bottom of the same size, as the correlation of two tasks falls (Ma et al. 2018, figure 4).

    python benchmarks/correlation.py
    python benchmarks/correlation.py --correlations 1 0.5 --seeds 0 1 --steps 500 --split val

Each seed has its own pair of regressions (`CorrelatedRegressions`, `data_seed`), training data and initial weights, the
same for both networks. A stopped run resumes when the script is called again. Writes results/correlation.json beside
this file: every run, and for each correlation the differences within seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, cast

import torch
from readings import log_of

from metabox import OuterLoop, evaluate, run
from metabox.episodes import Split
from metabox.evaluation import interval_of
from metabox.files import write_json
from metabox.learners.base import Learner
from metabox.learners.multitask.experts import MMoE
from metabox.targets import TaskSpec
from metabox.tasks.multitask.recommendation import CorrelatedRegressions
from metabox.tasks.place import Place
from metabox.training.environment import collect_environment

EXPERTS, EXPERT, TOWER = 8, 16, 8  # number of experts, units of each, units of a tower


def size(learner: MMoE) -> int:
    """The number of parameters; the gates of a single expert have no effect and do not count."""
    gates = sum(p.numel() for p in learner.gates.parameters()) if learner.n_experts == 1 else 0
    return sum(p.numel() for p in learner.parameters()) - gates


def networks(spec: TaskSpec) -> dict[str, partial[MMoE]]:
    """MMoE, and a shared bottom with the same towers: one expert, the narrowest with at least as many parameters."""
    mmoe = partial(MMoE, n_experts=EXPERTS, expert_size=EXPERT, tower_size=TOWER)
    wanted, width = size(mmoe(spec)), EXPERTS * EXPERT // 2
    while size(MMoE(spec, n_experts=1, expert_size=width, tower_size=TOWER)) < wanted:
        width += 1
    return {"mmoe": mmoe, "shared_bottom": partial(MMoE, n_experts=1, expert_size=width, tower_size=TOWER)}


@torch.no_grad()
def error(learner: Learner, tasks: CorrelatedRegressions, split: Split) -> float:
    """Mean squared distance between predicted and true means: the squared error without the noise."""
    episodes = tasks.sample(Place(100, split, seed=1))
    true = torch.from_numpy(tasks.means(episodes.query.x.double().numpy()))
    return float((learner(episodes)[..., [0, 2]] - true).square().mean())


def row(correlation: float, name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate once."""
    tasks = CorrelatedRegressions(correlation, n_query=args.batch, data_seed=seed)
    make = networks(tasks.spec)[name]
    outer = OuterLoop(
        steps=args.steps, n_tasks=1, lr=args.lr, weight_decay=0.0, validate_every=args.steps // 5, n_validation=50
    )
    out = args.runs / f"correlation-{correlation:g}-{name}-{args.steps}-{args.lr:g}-seed{seed}"
    learner = run(tasks, make, outer, seed=seed, scale="none", out=out)
    last = log_of(out)[-1]
    return {
        "correlation": correlation,
        "network": name,
        "seed": seed,
        "parameters": size(cast(MMoE, learner)),
        "training_seconds": round(last["seconds"], 1),
        "error": error(learner, tasks, args.split),
        "gap_to_oracle": evaluate(learner, tasks, split=args.split, n_tasks=100).mean("gap_to_oracle"),
    }


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each correlation the mean errors, and the mean of the difference within a seed with its 95% interval."""
    table = []
    for correlation in dict.fromkeys(r["correlation"] for r in rows):
        errors = {(r["network"], r["seed"]): r["error"] for r in rows if r["correlation"] == correlation}
        seeds = [seed for network, seed in errors if network == "mmoe" and ("shared_bottom", seed) in errors]
        gains = [errors["shared_bottom", seed] - errors["mmoe", seed] for seed in seeds]
        means = {network: mean(errors[network, seed] for seed in seeds) for network in ("mmoe", "shared_bottom")}
        n = len(gains)
        half = interval_of(gains) if n > 1 else None
        table.append({"correlation": correlation, "seeds": n, **means, "gain": mean(gains), "interval_95": half})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--correlations", type=float, nargs="+", default=[1.0, 0.9, 0.5, 0.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=256, help="examples per step")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--split", choices=["val", "test"], default="test", help="val to choose settings")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "correlation.json")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        for correlation in args.correlations:
            rows += [row(correlation, name, seed, args) for name in ("mmoe", "shared_bottom")]
        settings = {"steps": args.steps, "examples_of_a_step": args.batch, "lr": args.lr, "split": args.split}
        table = {
            "settings": settings,
            "environment": collect_environment(),
            "gain_of_mmoe": summary(rows),
            "rows": rows,
        }
        write_json(args.out, table)
    for line in summary(rows):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
