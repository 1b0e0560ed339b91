"""A study on validation classes: what makes MANN and LSTM learn streams of Omniglot early.

    OMP_NUM_THREADS=1 python benchmarks/streams.py                          # every variant; seven minutes each
    OMP_NUM_THREADS=1 python benchmarks/streams.py paper sharp --steps 6000 # some of them; others in the file stay
    python benchmarks/streams.py --list

Each variant is MANN or LSTM with its defaults, on the tasks of the recipes omniglot-stream5-mann and -lstm (55 images
of 20x20, five classes, batches of 16) by Adam at a constant rate of 1e-3, but for what its row says, and is trained for
the same number of batches from seed 0. The curve is of 200 tasks of the validation classes; no test class is seen.
Writes results/streams.json beside this file after each variant. A stopped run resumes, a finished one is not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from readings import log_of

import metabox
from metabox.data.augment import RandomAffine
from metabox.files import read_json, write_json
from metabox.learners import LSTM, MANN
from metabox.learners.base import Learner
from metabox.nn.backbones import Flatten
from metabox.objectives import StreamLoss
from metabox.tasks import FewerClasses, Omniglot
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.curriculum import Growth
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "streams.json", "tier": "full", "minutes": 170, "threads": 1, "data": True},
]

RESULTS = Path(__file__).parent / "results" / "streams.json"
SHOWN = (1, 2, 5, 10)  # instances of a class
Row = dict[str, Any]


class Variant(NamedTuple):
    """What is different from the recipe."""

    learner: Callable[..., Learner] = MANN
    options: dict[str, Any] = {}  # noqa: RUF012  # never changed
    outer: dict[str, Any] = {}  # noqa: RUF012
    summed: bool = False
    fewer_first: int | None = None  # batches for each number of classes from two to five
    augment: bool = True


SHARP = {"sharpness": 10.0}
NTM = {"gate": "emitted", "written": "separate", "reads": "weights-before", "begins": "first-row"}
OWN = {"gate": "emitted", "least_used": "own", "begins": "first-row"}
FAST = {"lr": 3e-3}
VARIANTS = {
    "paper": Variant(),
    "sharp": Variant(options=SHARP),
    "ntm": Variant(options=NTM),
    "ntm, sharp": Variant(options=NTM | SHARP),
    "own rows, sharp": Variant(options=OWN | SHARP),
    "ntm, sharp, fewer classes first": Variant(options=NTM | SHARP, fewer_first=300),
    "ntm, sharp, 3e-3": Variant(options=NTM | SHARP, outer=FAST),
    "own rows, separate, sharp": Variant(options=OWN | SHARP | {"written": "separate"}),
    "separate, sharp": Variant(options=SHARP | {"written": "separate"}),
    "lstm": Variant(learner=LSTM),
    "fewer classes first": Variant(fewer_first=300),
    "own rows": Variant(options=OWN),
    "separate": Variant(options={"written": "separate"}),
    "emitted gate": Variant(options={"gate": "emitted"}),
    "weights before": Variant(options={"reads": "weights-before"}),
    "read before": Variant(options={"reads": "before"}),
    "first row": Variant(options={"begins": "first-row"}),
    "decay .99": Variant(options={"decay": 0.99}),
    "summed": Variant(summed=True),
    "3e-3": Variant(outer=FAST),
    "rmsprop": Variant(outer={"optimizer": "rmsprop", "lr": 1e-4, "smoothing": 0.95, "momentum": 0.9}),
    "batches of 64": Variant(outer={"n_tasks": 64}),
    "images as they are": Variant(augment=False),
    "lstm, 3e-3": Variant(learner=LSTM, outer=FAST),
}


def tasks_of(variant: Variant, root: str | None = None) -> tuple[EpisodeSampler, EpisodeSampler]:
    """The tasks of training and of validation."""
    augment = RandomAffine(rotation=6.5, scale=0, shear=0, shift=0.05) if variant.augment else None
    sizes: dict[str, Any] = {"n_way": 5, "n_shot": 10, "n_query": 1, "image_size": 20}
    tasks = Omniglot(data_root=root, augment=augment, split="vinyals", rotations=True, **sizes)
    if variant.fewer_first is None:
        return tasks, tasks
    return FewerClasses(tasks, Growth(2, 1, variant.fewer_first)), tasks


def trained(name: str, steps: int, seed: int, args: argparse.Namespace) -> Path:
    """The folder of the variant's run."""
    variant = VARIANTS[name]
    tasks, evaluation = tasks_of(variant, args.data_root)
    usual: dict[str, Any] = {"optimizer": "adam", "weight_decay": 0, "schedule": "constant", "lr": 1e-3, "n_tasks": 16}
    outer = metabox.OuterLoop(steps=steps, validate_every=250, n_validation=200, **usual | variant.outer)
    learner = partial(variant.learner, backbone=Flatten, **variant.options)
    objective = partial(StreamLoss, summed=variant.summed)
    out: Path = args.runs / f"streams-{name.replace(', ', '-').replace(' ', '-')}-{steps}-seed{seed}"
    metabox.run(tasks, learner, outer, evaluation=evaluation, objective=objective, seed=seed, out=out)
    return out


def row_of(name: str, seed: int, out: Path) -> Row:
    """The curve of a run: step, seconds of training, negative log likelihood, percent at some instances."""
    variant, lines = VARIANTS[name], [line for line in log_of(out) if "val" in line]
    about = read_json(out / "environment.json")
    columns = [f"accuracy_instance_{k}" for k in SHOWN]
    curve = [
        [line["step"], round(line["seconds"], 1), round(line["val"]["nll"], 4)]
        + [round(100 * line["val"][column], 2) for column in columns]
        for line in lines
    ]
    return {
        "variant": name,
        "learner": variant.learner.__name__,
        "differs_in": {**variant.options, **variant.outer}
        | ({"summed": True} if variant.summed else {})
        | ({"batches_for_each_way": variant.fewer_first} if variant.fewer_first else {})
        | ({} if variant.augment else {"augment": None}),
        "seed": seed,
        "steps": curve[-1][0],
        "ms_per_step": round(1000 * curve[-1][1] / curve[-1][0], 1),
        "at_the_end": dict(zip(("nll", *columns), curve[-1][2:], strict=True)),
        "curve_of": ["step", "seconds", "nll", *columns],
        "curve": curve,
        "git_tree": about.get("git_tree"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", help="by default all")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data-root", help="folder of the data sets; else METABOX_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="print the names of all variants")
    args = parser.parse_args()
    if args.list:
        print("\n".join(VARIANTS))
        return
    if unknown := set(args.variants) - set(VARIANTS):
        parser.error(f"expected variants among {', '.join(VARIANTS)}, got {', '.join(unknown)}")
    rows: list[Row] = read_json(args.out)["rows"] if args.out.exists() else []
    for name in args.variants or VARIANTS:
        for seed in args.seeds:
            got = row_of(name, seed, trained(name, args.steps, seed, args))
            key = ("variant", "seed", "steps")
            rows = [row for row in rows if any(row[part] != got[part] for part in key)] + [got]
            rows.sort(key=lambda row: (row["steps"], -row["curve"][-1][4], row["variant"]))
            write_json(args.out, {"environment": collect_environment(), "classes": "validation", "rows": rows})
            print(json.dumps({"variant": name, "seed": seed, "last": got["curve"][-1]}), flush=True)


if __name__ == "__main__":
    main()
