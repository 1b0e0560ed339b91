"""One budget, all sequence learners: recall of 18-bit keys, filtering of linear-Gaussian systems, streams of Omniglot.

    OMP_NUM_THREADS=1 python benchmarks/sequences.py recall --minutes 8
    OMP_NUM_THREADS=1 python benchmarks/sequences.py kalman --minutes 8 --learners lstm gateddeltanet
    OMP_NUM_THREADS=1 python benchmarks/sequences.py streams --minutes 30

Every recipe recall-NAME or kalman-NAME is trained for the same time on one core, and tested at up to four times the
trained length; `streams` is omniglot-stream5-lstm with each learner in its place, and omniglot-stream5-mann. Beside a
score stands the size of phi, in numbers a task, at the longest support. Writes results/sequences-COMMAND.json beside
this file after each learner; rows of others stay. Stopped runs resume.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from incontext import trained
from published import steps_for

import metabox
from metabox.data.root import DATA_VARIABLE
from metabox.files import read_json, write_json
from metabox.learners.base import Learner
from metabox.objectives import StreamLoss
from metabox.recipe import find, make_parser, parse
from metabox.tasks import AssociativeRecall, KalmanFiltering, Omniglot
from metabox.tasks.place import Place
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "sequences-recall.json", "arguments": "recall", "tier": "full", "minutes": 100, "threads": 1},
    {"writes": "sequences-kalman.json", "arguments": "kalman", "tier": "full", "minutes": 100, "threads": 1},
    {
        "writes": "sequences-streams.json",
        "arguments": "streams --minutes 30",
        "tier": "full",
        "minutes": 330,
        "threads": 1,
        "data": True,
    },
]

Row = dict[str, Any]
LEARNERS = (
    *("lstm", "mann", "linearattention", "gateddeltanet", "mamba2", "xlstm", "ttt", "tttmlp"),
    *("gpicl", "snail", "incontext"),
)
SNAIL = ("--learner", "SNAIL", "--learner.backbone", "Flatten", "--learner.horizon", "64")
STREAM_BY_STREAM = ("incontext",)
"""Learners that have no pass over a whole sequence: each of the 55 steps would be a task of its own."""
KEYS, TRAINED = {"key_bits": 18, "value_bits": 8}, (2, 16)
PAIRS = (4, 8, 12, 16, 24, 32, 48, 64)  # from below the width of a key of GatedDeltaNet, 16, to above it
STEPS, LONG = 50, 200
INSTANCES = (1, 2, 5, 10)  # of a class, in a stream
WINDOWS = ((0, 10), (10, STEPS + 1), (STEPS + 1, LONG + 1))


@torch.no_grad()
def size_of_phi(learner: Learner, episodes: metabox.Episodes) -> int:
    """Numbers that a task's phi holds."""
    phi = learner.adapt(episodes.support, episodes.descriptor)
    return sum(part.numel() for part in phi.values()) // len(episodes)


def recall(learner: Learner) -> Row:
    """Percent of wrong bits by number of pairs."""
    rows = []
    for pairs in PAIRS:
        tasks = AssociativeRecall(length=pairs, n_query=2, **KEYS)
        wrong = 1 - metabox.evaluate(learner, tasks, n_tasks=500).mean("accuracy")
        size = size_of_phi(learner, tasks.sample(Place(2, "test")))
        rows.append({"pairs": pairs, "wrong_bits_percent": round(100 * wrong, 2), "numbers_in_phi": size})
    return {"trained_on_pairs": TRAINED, "lengths": rows}


@torch.no_grad()
def kalman(learner: Learner) -> Row:
    """Nats a step above Bayes, who knows the family and not the system, and above the filter of the true system."""
    tasks, parts = KalmanFiltering(n_support=LONG), []
    for first in range(0, 400, 50):
        place = Place(50, "test", first=first)
        episodes, best = tasks.sample(place), tasks.references(place)
        s, q = episodes.support, episodes.query
        whole = metabox.Examples(x=torch.cat([s.x, q.x], 1), y=torch.cat([s.y, q.y], 1))
        found = learner.spec.target.log_prob(learner.stream(whole), whole.y).double()
        parts.append(torch.stack([torch.from_numpy(best[name]) - found for name in ("bayes", "known")]))
    gaps = torch.cat(parts, dim=1)  # [2, tasks, steps]
    rows = []
    for start, end in WINDOWS:
        of_tasks = gaps[:, :, start:end].mean(-1)
        mean, interval = of_tasks.mean(1), 1.96 * of_tasks.std(1) / of_tasks.shape[1] ** 0.5
        rows.append(
            {
                "steps": [start + 1, end],
                "nats_above_bayes": round(float(mean[0]), 4),
                "interval_95": round(float(interval[0]), 4),
                "nats_above_the_true_system": round(float(mean[1]), 4),
            }
        )
    return {"trained_on_steps": STEPS + 1, "windows": rows, "numbers_in_phi": size_of_phi(learner, episodes)}


def streams(learner: Learner) -> Row:
    """Percent right at some instances of a class, of streams of 55 images of five classes."""
    tasks = Omniglot(n_way=5, n_shot=10, n_query=1, split="vinyals", rotations=True, image_size=20)
    found = metabox.evaluate(learner, tasks, n_tasks=1000, objective=StreamLoss)
    at = {f"instance_{k}_percent": round(100 * found.mean(f"accuracy_instance_{k}"), 2) for k in INSTANCES}
    return {**at, "nll": round(found.mean("nll"), 4), "numbers_in_phi": size_of_phi(learner, tasks.sample(Place(2)))}


COMMANDS = {"recall": recall, "kalman": kalman, "streams": streams}


def recipe_of(command: str, name: str) -> str:
    """The recipe that is trained, with `words`."""
    if command == "streams":
        return f"omniglot-stream5-{name if name in ('lstm', 'mann') else 'lstm'}"
    return f"{command}-{'gpicl' if name == 'snail' else name}"


def learner_of_recall(name: str) -> Iterator[str]:
    """The learner that is trained for recall, each of its options: an option left out would be the stream recipe's."""
    learner = parse(make_parser(find(recipe_of("recall", name))), [*SNAIL] if name == "snail" else []).learner
    yield from ("--learner", learner.class_path, "--learner.backbone", "Flatten")
    for option, value in vars(learner.init_args).items():
        if option != "backbone":
            yield from (f"--learner.{option}", value if isinstance(value, str) else json.dumps(value))


def words(command: str, name: str, data_root: str | None = None) -> Iterator[str]:
    """What is different from the recipe."""
    if command == "streams" and name not in ("lstm", "mann"):
        yield from learner_of_recall(name)
    elif name == "snail":
        yield from SNAIL
    if command == "recall":
        for option, value in {"length": list(TRAINED), **KEYS}.items():
            yield from (f"--tasks.{option}", str(value))
    if command == "streams" and data_root:
        yield from ("--data-root", data_root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=LEARNERS)
    parser.add_argument("--data-root", help="folder of the data sets; else METABOX_DATA")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or Path(__file__).parent / "results" / f"sequences-{args.command}.json"
    rows: list[Row] = read_json(out)["rows"] if out.exists() else []
    if args.command == "streams" and args.data_root:
        os.environ[DATA_VARIABLE] = args.data_root
    for name in args.learners:
        if args.command == "streams" and name in STREAM_BY_STREAM:
            continue
        recipe, more = recipe_of(args.command, name), [*words(args.command, name, args.data_root)]
        folder = args.runs / f"sequences-{args.command}-{name}-{args.minutes:g}min"
        steps = steps_for(recipe, 60 * args.minutes, folder.with_suffix(".json"), more)
        every = str(max(1, steps // 4))
        learner, run = trained(recipe, folder, *more, "--outer.steps", str(steps), "--outer.validate_every", every)
        rows = [row for row in rows if row["learner"] != name] + [
            {"learner": name, **run, **COMMANDS[args.command](learner)}
        ]
        about = {"minutes_of_training": args.minutes, "environment": collect_environment()}
        write_json(out, {**about, "rows": sorted(rows, key=lambda row: LEARNERS.index(row["learner"]))})
        print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
