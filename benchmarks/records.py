"""Omniglot's four usual settings by one network, trained for minutes of a processor, with and without views.

    python benchmarks/records.py record --data-root DIR    # the recipe as it stands: 90 minutes of a core
    python benchmarks/records.py beside --data-root DIR    # 30 minutes of a core each: three seeds, and other learners
    python benchmarks/records.py early --data-root DIR     # its accuracy after 30 seconds and 5 minutes of two cores
    python benchmarks/records.py record --validate         # the weights so far, on validation characters only

Vinyals' split with rotations. The same weights answer in all settings, and every choice was made on validation
characters. The recipe is omniglot-record-incontext. The other learners have its backbone, augmentation and optimizer,
and as many steps as fit into the same time of one core; only MAML differs: it is trained on tasks of 20 classes, for
its inner loop, and is transductive, as in its paper.
A stopped command goes on where it was; a finished training is not repeated. Writes results/records-COMMAND.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from readings import log_of

from metabox.cli.main import main as metabox
from metabox.episodes import Split
from metabox.evaluation import evaluate, normalisation
from metabox.files import read_json, write_json
from metabox.learners.base import Learner
from metabox.recipe import load_run
from metabox.tasks import Omniglot
from metabox.training.environment import collect_environment, read_environment
from metabox.views import Views

JOBS = [
    {
        "writes": "records-record.json",
        "arguments": "record",
        "tier": "full",
        "minutes": 120,
        "data": True,
        "threads": 1,
    },
    {
        "writes": "records-beside.json",
        "arguments": "beside",
        "tier": "full",
        "minutes": 400,
        "data": True,
        "threads": 1,
    },
    {
        "writes": "records-early.json",
        "arguments": "early",
        "tier": "full",
        "minutes": 30,
        "data": True,
        "threads": 1,
    },
]

Row = dict[str, Any]
RECIPE = "omniglot-record-incontext"
MINUTES = {"beside": (30.0,), "early": (1.0, 10.0)}
"""Of one core, for each training."""
LEARNERS: dict[str, list[str]] = {
    "InContext": [],
    "ProtoNet": ["--learner", "ProtoNet"],
    "MatchingNet": ["--learner", "MatchingNet"],
    "VERSA": ["--learner", "VERSA"],
    "MAML": [
        *("--learner", "MAML", "--learner.first_order", "true", "--learner.lr", "0.02"),
        *("--learner.backbone.norm", "transductive"),
        *("--tasks.n_way", "20", "--evaluation.n_way", "20", "--outer.n_tasks", "3"),
    ],
}
SETTINGS = {"5w1s": (5, 1, 15, 1000), "5w5s": (5, 5, 15, 1000), "20w1s": (20, 1, 5, 600), "20w5s": (20, 5, 5, 600)}
"""Ways, shots, queries of a class, and tasks."""
N_VIEWS = 9
REFUSED = 2
"""The exit status of what cannot be trained as it is."""


def train(out: Path, options: Sequence[str]) -> None:
    """Train, or go on; the processor's time of every call that makes steps is added up in a file beside the run."""
    ledger, before, began = out.with_suffix(".processor.json"), steps_of(out), time.process_time()
    try:
        if code := metabox(["train", RECIPE, "--out", str(out), *options, "--n_test", "1"]):
            raise SystemExit(code)
    finally:
        if steps_of(out) > before:
            spent = read_json(ledger)["seconds"] if ledger.exists() else 0.0
            write_json(ledger, {"seconds": spent + time.process_time() - began})


def steps_of(out: Path) -> int:
    """How many steps the log of a run has, if there is one."""
    return int(log_of(out)[-1]["step"]) if (out / "metrics.jsonl").exists() and log_of(out) else 0


def seconds_per_step(options: Sequence[str]) -> float:
    """Of one core, between two short trainings that differ by 40 steps."""
    short = ["--outer.validate_every", "1000", "--outer.n_validation", "1", "--outer.warmup", "1"]
    taken = []
    for steps in (10, 10, 50):  # the first one warms up
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            train(Path(folder) / "run", [*options, *short, "--outer.steps", str(steps)])
            taken.append(time.process_time() - began)
    return (taken[2] - taken[1]) / 40


def budgeted(name: str, minutes: float, seed: int, args: argparse.Namespace) -> Path:
    """Train for a time of one core, which is turned into steps once, and kept so that a stopped run can go on."""
    options = [*LEARNERS[name], *args.more, "--seed", str(seed)]
    kept = args.runs / f"{RECIPE}-{name}-{minutes:g}min.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"steps": int(60 * minutes / seconds_per_step(options))})
    steps = read_json(kept)["steps"]
    out: Path = args.runs / f"{RECIPE}-{name}-{minutes:g}min-seed{seed}"
    rest = {"steps": steps, "validate_every": max(1, steps // 5), "warmup": min(500, steps // 10)}
    train(out, [*options, *(word for key, value in rest.items() for word in (f"--outer.{key}", str(value)))])
    return out


def accuracies(learner: Learner, image_size: int, split: Split, root: str | None, n_views: Sequence[int]) -> list[Row]:
    """A row for each setting and number of views."""
    rows = []
    for setting, (n_way, n_shot, n_query, n_tasks) in SETTINGS.items():
        if n_way > learner.spec.target.size:
            continue
        tasks = Omniglot(n_way=n_way, n_shot=n_shot, n_query=n_query, image_size=image_size, data_root=root)
        for views in n_views:
            found = evaluate(
                *(learner, tasks), split=split, n_tasks=n_tasks, batch=5, objective=partial(Views, n_views=views)
            )
            row = {
                "task": f"Omniglot {setting}",
                "views": views,
                "accuracy_percent": round(100 * found.mean("accuracy"), 3),
                "interval_95_percent": round(100 * found.interval("accuracy"), 3),
                "tasks": n_tasks,
            }
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def measured(out: Path, args: argparse.Namespace) -> Row:
    """What a training cost, and the accuracies of its best weights."""
    learner, tasks = load_run(out)
    views = (1, N_VIEWS) if args.views else (1,)
    last, about = log_of(out)[-1], read_environment(out)
    ledger = out.with_suffix(".processor.json")
    return {
        "steps": last["step"],
        "training_seconds": round(last["seconds"]),
        "processor_seconds": round(read_json(ledger)["seconds"]) if ledger.exists() else None,
        "batch_norm": normalisation(learner)["batch_norm"],
        "precision": about["precision"],
        "trained_at_commit": about["git_commit"],
        "git_tree": about["git_tree"],
        "split": args.split,
        "accuracies": accuracies(learner, cast(Omniglot, tasks).image_size, args.split, args.data_root, views),
    }


def wanted(args: argparse.Namespace) -> list[tuple[str, int, float | None]]:
    """The trainings of a command: learner, seed, and minutes of one core; None for the recipe as it stands."""
    if args.command == "record":
        return [("InContext", 0, None)]
    if args.command == "early":
        return [("InContext", 0, minutes) for minutes in MINUTES["early"]]
    names = args.learners or list(LEARNERS)
    return [(name, seed, *MINUTES["beside"]) for name in names for seed in ((0, 1, 2) if name == "InContext" else (0,))]


def row_of(name: str, seed: int, minutes: float | None, args: argparse.Namespace) -> Row:
    """Train, unless only validation is wanted, and measure; or say that it cannot be trained here."""
    about = {"learner": name, "seed": seed, "minutes_of_one_core": minutes}
    out = args.runs / f"{RECIPE}-seed{seed}"
    try:
        if minutes is not None:
            out = budgeted(name, minutes, seed, args)
        elif not args.validate:
            train(out, [*args.more, "--seed", str(seed)])
    except SystemExit as end:
        if end.code != REFUSED:  # it was stopped
            raise
        return about | {"left_out": "it cannot be trained here"}
    return about | measured(out, args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", *MINUTES])
    parser.add_argument("--learners", nargs="+", choices=list(LEARNERS), help="of `beside`; by default all")
    parser.add_argument("--data-root", help="folder of the data sets; else METABOX_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--validate", action="store_true", help="of `record`: no training, no file")
    args = parser.parse_args()
    if args.validate and args.command != "record":
        parser.error("expected --validate with record, which alone has one training")
    args.more = ["--data-root", args.data_root] if args.data_root else []
    args.split, args.views = ("val" if args.validate else "test"), args.command != "early"
    out = Path(__file__).parent / "results" / f"records-{args.command}.json"
    rows: list[Row] = read_json(out)["rows"] if out.exists() and not args.validate else []
    for name, seed, minutes in wanted(args):
        key = {"learner": name, "seed": seed, "minutes_of_one_core": minutes}
        others = [row for row in rows if not key.items() <= row.items()]
        about = collect_environment()
        if any(key.items() <= row.items() and row.get("git_tree") == about["git_tree"] for row in rows):
            continue
        rows = [*others, row_of(name, seed, minutes, args)]
        print(json.dumps(rows[-1]), flush=True)
        if not args.validate:
            write_json(out, {"recipe": RECIPE, "environment": about, "rows": rows})


if __name__ == "__main__":
    main()
