"""Lake's challenge: 20 characters of an alphabet from one drawing each, learned from the 30 background alphabets only.

    python benchmarks/lake.py --data-root DIR             # three seeds, 25 minutes of a core each
    python benchmarks/lake.py --data-root DIR --choose    # five of the alphabets held out: trained on the others

The recipe is omniglot-lake20-incontext. Two exams, which are not to be compared: Lake's own 20 runs (400 answers), on
which people and programs were measured, and tasks that are drawn at random from the evaluation alphabets, which are
harder; each has a table of its own. Every choice was made on five of the background alphabets, which `--choose` holds
out; the networks of the two exams are trained on all 30. A stopped command goes on where it was; a finished training is
not repeated. Writes results/lake.json, or with `--choose` results/lake-choice.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import cast

from budget import beside_claim
from timed_runs import VIEWS, Row, add_rows, by_views, cost, train

from metabox.discover import recipes
from metabox.episodes import Split
from metabox.evaluation import interval_of
from metabox.files import read_json, write_json
from metabox.gate import read
from metabox.learners.base import Learner
from metabox.recipe import load_run
from metabox.tasks import LakeRuns, Omniglot
from metabox.tasks.sampler import EpisodeSampler

JOBS = [
    {"writes": "lake.json", "tier": "full", "minutes": 90, "data": True, "threads": 1},
    {
        "writes": "lake-choice.json",
        "arguments": "--choose --seeds 0",
        "tier": "full",
        "minutes": 25,
        "data": True,
        "threads": 1,
    },
]

RECIPE = "omniglot-lake20-incontext"
N_TASKS = 600


def row_of(seed: int, args: argparse.Namespace) -> Row:
    """Train and measure: on the alphabets held out, or in both exams."""
    out = args.runs / f"{RECIPE}{'-choice' * args.choose}-seed{seed}"
    train(RECIPE, out, [*args.more, *(("--tasks.split", "lake") if args.choose else ()), "--seed", str(seed)])
    learner, tasks = load_run(out)
    size, root = cast(Omniglot, tasks).image_size, args.data_root
    drawn = Omniglot(
        *("lake", False), n_way=20, n_shot=1, n_query=1, within_groups=True, image_size=size, data_root=root
    )
    split: Split = "val" if args.choose else "test"
    found = {"drawn_at_random": errors(learner, drawn, split, N_TASKS)}
    row = cost(out) | {"recipe": RECIPE, "split": split}
    if not args.choose:
        found["runs"] = errors(learner, LakeRuns(size, root), "test", 20)
        plain = {name: found["runs"][0][name] for name in ("accuracy_percent", "interval_95_percent")}
        claim = {"interval": None} | read(str(recipes()[RECIPE]))["claim"]
        row |= plain | {"claim": beside_claim(claim, {"accuracy": {"mean": plain["accuracy_percent"] / 100}})}
    return row | found


def errors(learner: Learner, tasks: EpisodeSampler, split: Split, n_tasks: int) -> list[Row]:
    """A row for each number of views."""
    rows = by_views(learner, tasks, split, n_tasks)
    return [{"error_percent": round(100 - row["accuracy_percent"], 3), **row} for row in rows]


def means(rows: list[Row], exam: str) -> list[Row]:
    """For each number of views the mean error over seeds, with its interval."""
    lines: list[Row] = []
    for views in VIEWS:
        found = [line["error_percent"] for row in rows for line in row[exam] if line["views"] == views]
        interval = round(interval_of(found), 3) if len(found) > 1 else None
        lines.append({"views": views, "seeds": len(found), "error_percent": round(fmean(found), 3)})
        lines[-1]["interval_95_percent_over_seeds"] = interval
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data-root", help="folder of the data sets; else METABOX_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--choose", action="store_true", help="five alphabets held out, neither exam read")
    args = parser.parse_args()
    args.more = ["--data-root", args.data_root] if args.data_root else []
    out = Path(__file__).parent / "results" / f"lake{'-choice' * args.choose}.json"
    add_rows(out, [{"seed": seed} for seed in args.seeds], lambda key: row_of(key["seed"], args), {"recipe": RECIPE})
    content = read_json(out)
    exams = [name for name in ("drawn_at_random", "runs") if name in content["rows"][0]]
    write_json(out, content | {f"{exam}_mean_of_seeds": means(content["rows"], exam) for exam in exams})


if __name__ == "__main__":
    main()
