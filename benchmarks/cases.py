"""The case studies that generate their own data: each recipe trained unchanged, with its test scores.

    python benchmarks/cases.py                          # all of them, three seeds; hours on one core
    python benchmarks/cases.py spam-told --seeds 0 1    # some of them; the others in the file stay

A finished run is not repeated. Writes results/cases.json beside this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from metabox import load_run
from metabox.cli.main import main as metabox
from metabox.discover import recipes
from metabox.files import read_json, write_json
from metabox.multitask.pixel_scores import pixel_scores
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "cases.json", "tier": "full", "minutes": 180, "threads": 1},
]

OUT = Path(__file__).parent / "results" / "cases.json"
CASES = ("spam-", "shapes-", "scenes-", "recommendation-")


def row(recipe: str, seed: int, runs: Path) -> dict[str, Any]:
    """Train once, and read the result that `metabox train` writes."""
    out = runs / f"{recipe}-seed{seed}"
    if metabox(["train", recipe, "--seed", str(seed), "--out", str(out)]):
        raise SystemExit(2)
    result = read_json(next((out / "results").glob("*.json")))
    scores = {name: value["mean"] for name, value in result["summary"].items() if isinstance(value, dict)}
    learner, tasks = load_run(out)
    if any(part.spatial for part in tasks.spec.target.parts):
        scores |= pixel_scores(learner, tasks, split="test", n_tasks=50)
    return {
        "recipe": recipe,
        "seed": seed,
        "training_seconds": round(float(result["weights"]["seconds"]), 1),
        **{name: round(value, 4) for name, value in sorted(scores.items())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    kept = read_json(OUT) if OUT.exists() else {}
    for recipe in args.recipes or [name for name in recipes() if name.startswith(CASES)]:
        rows = {r["seed"]: r for r in kept.get(recipe, [])}
        for seed in args.seeds:
            rows[seed] = row(recipe, seed, args.runs)
            print(json.dumps(rows[seed]), flush=True)
        kept = kept | {"environment": collect_environment(), recipe: [rows[seed] for seed in sorted(rows)]}
        write_json(OUT, kept)


if __name__ == "__main__":
    main()
