"""Streams of Omniglot as published: accuracy at the k-th instance of a class, and the learning curve, of whole recipes.

    OMP_NUM_THREADS=1 python benchmarks/omniglot_streams.py                        # every recipe, three seeds; days
    OMP_NUM_THREADS=1 python benchmarks/omniglot_streams.py omniglot-stream5-mann --seeds 0

Each recipe is trained unchanged, after the one whose convolutions it has: `training_seconds` are of both. A stopped run
resumes; of a finished one only the result is read. A row holds the accuracy of the test tasks at each instance, beside
the claim, and the share of answers that follow exchanged names at the same instance; its curve is of validation tasks.
Writes results/omniglot-streams.json beside this file after each run, and draws docs/_static/omniglot-streams.svg: rows
of other recipes and seeds stay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

from budget import beside_claim
from readings import log_of
from svg import write_svg

from metabox.cli.main import main as metabox
from metabox.files import read_json, write_json
from metabox.recipe import find, make_parser, parse
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "omniglot-streams.json", "tier": "full", "minutes": 2600, "threads": 1, "data": True},
]

RESULTS = Path(__file__).parent / "results" / "omniglot-streams.json"
FIGURE = Path(__file__).parents[1] / "docs" / "_static" / "omniglot-streams.svg"
RECIPES = (
    "omniglot-stream5-mann",
    "omniglot-stream5-lstm",
    "omniglot-stream5-mann-cpu",
    "omniglot-stream5-mann-lake-cpu",
    "omniglot-stream5-strings-mann",
    "omniglot-stream5-strings-lstm",
    "omniglot-stream15-strings-mann",
)
AT = "accuracy_instance_"
CURVE = (2, 5, 10)
"""Instances of the curve, where a recipe's streams have so many."""
Row = dict[str, Any]


def percent(scores: dict[str, Any], k: int) -> float:
    """Accuracy at the k-th instance."""
    value = scores[f"{AT}{k}"]
    return round(100 * float(value["mean"] if isinstance(value, dict) else value), 2)


def row_of(recipe: str, seed: int, out: Path) -> Row:
    """What a finished run's folder says."""
    result, lines = read_json(next((out / "results").glob("*.json"))), log_of(out)
    summary, known = result["summary"], [line for line in lines if "val" in line]
    instances = sorted(int(name.removeprefix(AT)) for name in summary if name.startswith(AT))
    shown = [k for k in CURVE if f"{AT}{k}" in known[0]["val"]]
    curve = [[line["step"], round(line["seconds"], 1), *(percent(line["val"], k) for k in shown)] for line in known]
    return {
        "recipe": recipe,
        "seed": seed,
        "steps": lines[-1]["step"],
        "training_seconds": round(lines[-1]["seconds"], 1),
        **{f"instance_{k}": percent(summary, k) for k in instances},
        "interval_95_of_instance_2": round(100 * summary[f"{AT}2"]["interval_95"], 2),
        "names_exchanged_percent": round(100 * result["memorisation"]["accuracy_renamed"], 2),
        "claim": beside_claim(result["claim"], summary),
        "curve_of": ["step", "seconds", *(f"{AT}{k}" for k in shown)],
        "curve": curve,
        "git_tree": result["trained_on"]["git_tree"],
    }


def front(recipe: str) -> str | None:
    """The recipe of the run whose backbone a recipe continues from, if it does."""
    backbone = parse(make_parser(find(recipe)), []).learner.init_args.backbone
    run = getattr(getattr(backbone, "init_args", None), "run", None)
    return Path(run).name.removesuffix("-seed0") if run else None


def train(recipe: str, seed: int, out: Path, *more: str) -> float:
    """Train a recipe, after the one that it continues from: the seconds of both."""
    words, before, first = [recipe, "--seed", str(seed), "--out", str(out), *more], 0.0, front(recipe)
    if first:
        run = out.with_name(f"{first.removeprefix('omniglot-')}-seed{seed}")
        before = train(first, seed, run, *more)
        words += ["--learner.backbone.run", str(run)]
    if metabox(["train", *words]):
        raise SystemExit(2)
    return before + float(log_of(out)[-1]["seconds"])


def draw(rows: list[Row], out: Path = FIGURE) -> None:
    """Left the accuracy by instance, the mean over seeds; right the curves of validation at the second instance."""
    from matplotlib.figure import Figure

    from metabox.reports.figures import DASHES, SERIES

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, recipe in enumerate(dict.fromkeys(row["recipe"] for row in rows)):
        of, color = [row for row in rows if row["recipe"] == recipe], SERIES[place % len(SERIES)]
        instances = sorted(int(name.partition("_")[2]) for name in of[0] if name.startswith("instance_"))
        means = [fmean(row[f"instance_{k}"] for row in of) for k in instances]
        left.plot(instances, means, color=color, marker="o", markersize=3, label=recipe.removeprefix("omniglot-"))
        for row, dash in zip(of, 2 * DASHES, strict=False):
            second = row["curve_of"].index(f"{AT}2")
            points = [(point[0] / 1000, point[second]) for point in row["curve"]]
            right.plot(*zip(*points, strict=True), dash, color=color)
    left.set(xlabel="instance of a class", ylabel="accuracy, %")
    right.set(xlabel="thousands of training batches", title="validation, second instance", xlim=(0, None))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    write_svg(figure, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="for a trial; by default the recipe's")
    parser.add_argument("--data-root", help="folder of the data sets; else METABOX_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows: list[Row] = read_json(args.out)["rows"] if args.out.exists() else []
    more = ["--data-root", args.data_root] if args.data_root else []
    more += ["--outer.steps", str(args.steps), "--outer.validate_every", str(args.steps)] if args.steps else []
    for seed in args.seeds:
        for recipe in args.recipes:
            out = args.runs / f"{recipe.removeprefix('omniglot-')}-seed{seed}"
            spent = train(recipe, seed, out, *more)
            got = row_of(recipe, seed, out) | {"training_seconds": round(spent, 1), "continues": front(recipe)}
            rows = [row for row in rows if (row["recipe"], row["seed"]) != (recipe, seed)] + [got]
            rows.sort(key=lambda row: (row["recipe"], row["seed"]))
            write_json(args.out, {"environment": collect_environment(), "rows": rows})
            if args.out == RESULTS:
                draw(rows)
            print(json.dumps(got), flush=True)


if __name__ == "__main__":
    main()
