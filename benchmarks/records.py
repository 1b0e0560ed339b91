"""Omniglot's four usual settings by one network, trained for minutes of a processor; the record with views too.

    python benchmarks/records.py record --data-root DIR    # the recipe as it stands: 100 minutes of a core
    python benchmarks/records.py beside --data-root DIR    # 30 minutes of a core each: three seeds, and other learners
    python benchmarks/records.py early --data-root DIR     # its accuracy after 30 seconds and 5 minutes of two cores
    python benchmarks/records.py record --validate         # the weights so far, on validation characters only

Vinyals' split with rotations. The same weights answer in all settings, and every choice was made on validation
characters. The recipe is omniglot-record-incontext. The other learners have its backbone, augmentation and optimizer,
and as many steps as fit into the same time of one core; only MAML differs: it is trained on tasks of 20 classes, for
its inner loop, whose step is the one of .02, .1, .4 and 2 with which it left chance on validation characters, at a
quarter of the outer learning rate, with which it stayed there; and it is transductive, as in its paper.
A stopped command goes on where it was; a finished training is not repeated. Writes results/records-COMMAND.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import cast

from peers import has
from timed_runs import VIEWS, Row, add_rows, by_views, cost, outer, seconds_per_step, train

from metabox.evaluation import normalisation
from metabox.files import read_json, write_json
from metabox.learners.base import Learner
from metabox.recipe import load_run
from metabox.tasks import Omniglot

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
        "minutes": 220,
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

RECIPE = "omniglot-record-incontext"
MINUTES = {"beside": (30.0,), "early": (1.0, 10.0)}
"""Of one core, for each training."""
LEARNERS: dict[str, list[str]] = {
    "InContext": [],
    "ProtoNet": ["--learner", "ProtoNet"],
    "MatchingNet": ["--learner", "MatchingNet"],
    "VERSA": ["--learner", "VERSA"],
    "MAML": [
        *("--learner", "MAML", "--learner.first_order", "true", "--learner.lr", "0.1", "--outer.lr", "0.001"),
        *("--learner.backbone.norm", "transductive"),
        *("--tasks.n_way", "20", "--evaluation.n_way", "20", "--outer.n_tasks", "3"),
    ],
}
SETTINGS = {"5w1s": (5, 1, 15, 1000), "5w5s": (5, 5, 15, 1000), "20w1s": (20, 1, 5, 600), "20w5s": (20, 5, 5, 600)}
"""Ways, shots, queries of a class, and tasks."""


def budgeted(name: str, minutes: float, seed: int, args: argparse.Namespace) -> Path:
    """Train for a time of one core, which is turned into steps once, and kept so that a stopped run can go on."""
    options = [*LEARNERS[name], *args.more, "--seed", str(seed)]
    kept = args.runs / f"{RECIPE}-{name}-{minutes:g}min.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"steps": int(60 * minutes / seconds_per_step(RECIPE, options))})
    steps = read_json(kept)["steps"]
    out: Path = args.runs / f"{RECIPE}-{name}-{minutes:g}min-seed{seed}"
    rest = outer(steps=steps, validate_every=max(1, steps // 5), warmup=min(500, steps // 10))
    train(RECIPE, out, [*options, *rest])
    return out


def accuracies(learner: Learner, image_size: int, args: argparse.Namespace) -> list[Row]:
    """A row for each setting and number of views."""
    rows: list[Row] = []
    for setting, (n_way, n_shot, n_query, n_tasks) in SETTINGS.items():
        if n_way > learner.spec.target.size:
            continue
        tasks = Omniglot(n_way=n_way, n_shot=n_shot, n_query=n_query, image_size=image_size, data_root=args.data_root)
        rows += by_views(learner, tasks, args.split, n_tasks, args.views, task=f"Omniglot {setting}")
    return rows


def measured(out: Path, args: argparse.Namespace) -> Row:
    """What a training cost, and the accuracies of its best weights."""
    learner, tasks = load_run(out)
    found = accuracies(learner, cast(Omniglot, tasks).image_size, args)
    return cost(out) | {"batch_norm": normalisation(learner)["batch_norm"], "split": args.split, "accuracies": found}


def by_learner(rows: list[Row]) -> list[Row]:
    """A line for each learner: the mean accuracy over its seeds in each setting."""
    lines: list[Row] = []
    for name in dict.fromkeys(row["learner"] for row in rows):
        own = [row for row in rows if row["learner"] == name]
        found: dict[str, list[float]] = {}
        for scored in (scored for row in own for scored in row.get("accuracies", ())):
            found.setdefault(scored["task"].split()[-1], []).append(scored["accuracy_percent"])
        lines.append({"learner": name, "seeds": len(own), "steps": own[0].get("steps")})
        lines[-1] |= {setting: round(fmean(values), 2) for setting, values in found.items()}
    return lines


def wanted(args: argparse.Namespace) -> list[tuple[str, int, float | None]]:
    """The trainings of a command: learner, seed, and minutes of one core; None for the recipe as it stands."""
    if args.command == "record":
        return [("InContext", 0, None)]
    if args.command == "early":
        return [("InContext", 0, minutes) for minutes in MINUTES["early"]]
    names = args.learners or list(LEARNERS)
    return [(name, seed, *MINUTES["beside"]) for name in names for seed in ((0, 1, 2) if name == "InContext" else (0,))]


def row_of(name: str, seed: int, minutes: float | None, args: argparse.Namespace) -> Row:
    """Train, unless only validation is wanted, and measure."""
    if name == "MAML" and not has("learn2learn"):
        return {"left_out": "learn2learn is not installed; run benchmarks/install_learn2learn.py"}
    out = args.runs / f"{RECIPE}-seed{seed}"
    if minutes is not None:
        out = budgeted(name, minutes, seed, args)
    elif not args.validate:
        train(RECIPE, out, [*args.more, "--seed", str(seed)])
    return measured(out, args)


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
    args.split, args.views = ("val" if args.validate else "test"), VIEWS if args.command == "record" else VIEWS[:1]
    out = Path(__file__).parent / "results" / f"records-{args.command}.json"
    keys = [{"learner": name, "seed": seed, "minutes_of_one_core": minutes} for name, seed, minutes in wanted(args)]
    add_rows(
        None if args.validate else out,
        keys,
        lambda key: row_of(key["learner"], key["seed"], key["minutes_of_one_core"], args),
        {"recipe": RECIPE},
    )
    if args.command == "beside":
        content = read_json(out)
        write_json(out, content | {"by_learner": by_learner(content["rows"])})


if __name__ == "__main__":
    main()
