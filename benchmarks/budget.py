"""A recipe's accuracy on meta-test tasks against its training budget.

    python benchmarks/budget.py glyphs-5w1s-incontext
    python benchmarks/budget.py omniglot-5w1s-incontext --steps 900 2600 5600 14000 --data-root DIR

Each budget is a separate training run with its own schedule of the learning rate. A stopped run resumes
when the script is called again. Writes results/RECIPE.json beside this file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from readings import log_of

from metabox.cli.main import main as metabox
from metabox.files import read_json, write_json
from metabox.reports.metrics import DERIVED, more_is_better, scale
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "glyphs-5w1s-incontext.json", "arguments": "glyphs-5w1s-incontext", "tier": "quick", "minutes": 3},
    {
        "writes": "omniglot-5w1s-incontext.json",
        "arguments": "omniglot-5w1s-incontext --steps 1000 3000 6000 14000",
        "tier": "full",
        "minutes": 35,
        "data": True,
    },
]


def row(recipe: str, steps: int | None, seed: int, runs: Path, more: list[str]) -> dict[str, Any]:
    """Train and evaluate once; returns a row of the table."""
    out = runs / f"{recipe}-{steps or 'all'}-seed{seed}"
    budget = ["--outer.steps", str(steps), "--outer.validate_every", str(min(1000, steps // 2))] if steps else []
    if metabox(["train", recipe, *budget, "--seed", str(seed), "--out", str(out), *more]):
        raise SystemExit(2)
    result = read_json(next((out / "results").glob("*.json")))
    lines = log_of(out)
    summary = result["summary"]
    return {
        "recipe": recipe,
        "seed": seed,
        "steps": lines[-1]["step"],
        "training_seconds": round(lines[-1]["seconds"], 1),
        "accuracy_percent": round(100 * summary["accuracy"]["mean"], 3),
        "interval_95_percent": round(100 * summary["accuracy"]["interval_95"], 3),
        "nll": round(summary["nll"]["mean"], 4),
        "calibration_error": round(summary["calibration_error"], 4),
        "test_episodes": summary["n_tasks"],
        "claim": beside_claim(result["claim"], summary),
        "memorisation": result["memorisation"],
        "best_step": int(result["weights"]["step"]),
        "validation_percent": [
            [line["step"], round(100 * line["val"]["accuracy"], 2)] for line in lines if "val" in line
        ],
        "precision": result["trained_on"]["precision"],
        "trained_at_commit": result["trained_on"]["git_commit"],
        "git_tree": result["trained_on"]["git_tree"],
        "batch_norm": result["protocol"]["batch_norm"],
        "data": result["data"],
    }


def beside_claim(claim: dict[str, Any] | None, summary: dict[str, Any]) -> dict[str, Any] | None:
    """The published number beside the measured one, in percent or nats."""
    if claim is None:
        return None
    source, whole = DERIVED.get(claim["metric"], (claim["metric"], None))
    mean = summary[source]["mean"] if whole is None else whole - summary[source]["mean"]
    measured = scale(claim["metric"])[0] * mean
    short = claim["value"] - measured if more_is_better(claim["metric"]) else measured - claim["value"]
    return {
        "metric": claim["metric"],
        "published": claim["value"],
        "published_interval": claim["interval"],
        "measured": round(measured, 2),
        "short_by": round(max(0.0, short), 2),
        "source": claim["source"] + ("" if claim["verified"] else " (not verified)"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--steps", type=int, nargs="+", default=[None], help="budgets, in optimizer steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data-root", help="folder of the data sets; else METABOX_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    more = ["--data-root", args.data_root] if args.data_root else []
    rows = [row(args.recipe, steps, seed, args.runs, more) for steps in args.steps for seed in args.seeds]
    out = Path(__file__).parent / "results" / f"{args.recipe}.json"
    write_json(out, {"recipe": args.recipe, "environment": collect_environment(), "rows": rows})
    for r in rows:
        print(
            f"{r['steps']:6} steps, {r['training_seconds']:6.0f} s: "
            f"{r['accuracy_percent']:.2f} ± {r['interval_95_percent']:.2f} % (seed {r['seed']})"
        )


if __name__ == "__main__":
    main()
