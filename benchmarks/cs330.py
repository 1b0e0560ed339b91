"""The black-box exercise of CS330: accuracy of `omniglot-cs330-lstm` by ways and shots, with learning curves.

    OMP_NUM_THREADS=1 python benchmarks/cs330.py                        # all fifteen sizes, 5,000 steps each
    OMP_NUM_THREADS=1 python benchmarks/cs330.py --ways 5 --shots 1 2 --steps 20000

Writes results/cs330.json beside this file after each size; the rows of others stay. A stopped run resumes, a finished
one is not repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from readings import log_of

from metabox.cli.main import main as metabox
from metabox.files import read_json, write_json
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "cs330.json", "tier": "full", "minutes": 60, "threads": 1, "data": True},
]

RECIPE = "omniglot-cs330-lstm"
RESULTS = Path(__file__).parent / "results" / "cs330.json"
WAYS, SHOTS = (2, 3, 4, 5, 20), (1, 2, 5)


def row(way: int, shot: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one size."""
    out = args.runs / f"{RECIPE}-{way}w{shot}s-{args.steps}-seed{args.seed}"
    words = {"tasks.n_way": way, "tasks.n_shot": shot, "outer.steps": args.steps, "seed": args.seed, "out": out}
    words |= {"outer.validate_every": max(1, args.steps // 10)} | (
        {"data-root": args.data_root} if args.data_root else {}
    )
    if metabox(["train", RECIPE, *(word for name, value in words.items() for word in (f"--{name}", str(value)))]):
        raise SystemExit(2)
    result, lines = read_json(next((out / "results").glob("*.json"))), log_of(out)
    accuracy = result["summary"]["accuracy"]
    return {
        "ways": way,
        "shots": shot,
        "seed": args.seed,
        "steps": lines[-1]["step"],
        "training_seconds": round(lines[-1]["seconds"], 1),
        "accuracy_percent": round(100 * accuracy["mean"], 2),
        "interval_95_percent": round(100 * accuracy["interval_95"], 2),
        "chance_percent": round(100 / way, 2),
        "test_episodes": result["summary"]["n_tasks"],
        "validation_percent": [[x["step"], round(100 * x["val"]["accuracy"], 2)] for x in lines if "val" in x],
        "memorisation": result["memorisation"],
        "git_tree": result["trained_on"]["git_tree"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", type=int, nargs="+", default=WAYS)
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-root", help="folder of the data sets; else METABOX_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = read_json(args.out)["rows"] if args.out.exists() else []
    for way in args.ways:
        for shot in args.shots:
            got = row(way, shot, args)
            size = ("ways", "shots", "seed")
            rows = [r for r in rows if any(r[part] != got[part] for part in size)] + [got]
            rows.sort(key=lambda r: tuple(r[part] for part in size))
            write_json(args.out, {"recipe": RECIPE, "environment": collect_environment(), "rows": rows})
            print(json.dumps(got), flush=True)


if __name__ == "__main__":
    main()
