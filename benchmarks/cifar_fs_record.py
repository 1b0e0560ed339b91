"""CIFAR-FS in 5-way 1-shot and 5-shot by one network that is trained for minutes of a core, with and without views.

    python benchmarks/cifar_fs_record.py --data-root DIR               # the recipe as it stands: 45 minutes of a core
    python benchmarks/cifar_fs_record.py --data-root DIR --validate    # the weights so far, on validation classes
    python benchmarks/cifar_fs_record.py --data-root DIR --recipe cifarfs-record-incontext-resnet12 --steps 300 \\
        --views 1 --n-tasks 200

The recipe is cifarfs-record-incontext; --recipe names another of its folder, and --steps takes fewer than it says: a
ResNet-12 makes 300 in ten minutes of a core. Choices were made on validation classes. A stopped command goes on where
it was; a finished training is not repeated. Writes results/cifar-fs-record.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from timed_runs import VIEWS, Row, add_rows, by_views, cost, outer, train

from metabox.episodes import Split
from metabox.recipe import load_run
from metabox.tasks import CIFARFS

JOBS = [
    {"writes": "cifar-fs-record.json", "tier": "full", "minutes": 55, "data": True, "threads": 1},
]

RECIPE = "cifarfs-record-incontext"
SETTINGS = {"5w1s": 1, "5w5s": 5}


def shorter(steps: int | None) -> list[str]:
    """The options of a training of so many steps, with one validation on fewer tasks at its end."""
    if steps is None:
        return []
    return outer(steps=steps, validate_every=steps, n_validation=100, warmup=steps // 6)


def row_of(recipe: str, seed: int, args: argparse.Namespace) -> Row:
    """Train, unless only validation is wanted, and measure the best weights."""
    out = args.runs / f"{recipe}-seed{seed}"
    if not args.validate:
        train(recipe, out, [*args.more, *shorter(args.steps), "--seed", str(seed)])
    learner, _ = load_run(out)
    rows: list[Row] = []
    for setting, n_shot in SETTINGS.items():
        tasks = CIFARFS(n_way=5, n_shot=n_shot, n_query=15, data_root=args.data_root)
        split: Split = "val" if args.validate else "test"
        rows += by_views(learner, tasks, split, args.n_tasks, args.views, task=f"CIFAR-FS {setting}")
    return cost(out) | {"accuracies": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--steps", type=int, help="by default those of the recipe")
    parser.add_argument("--views", type=int, nargs="+", default=list(VIEWS))
    parser.add_argument("--n-tasks", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data-root", help="folder of the data sets; else METABOX_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--validate", action="store_true", help="no training, no file")
    args = parser.parse_args()
    args.more = ["--data-root", args.data_root] if args.data_root else []
    out = None if args.validate else Path(__file__).parent / "results" / "cifar-fs-record.json"
    keys = [{"recipe": args.recipe, "seed": seed} for seed in args.seeds]
    add_rows(out, keys, lambda key: row_of(key["recipe"], key["seed"], args), {})


if __name__ == "__main__":
    main()
