"""One budget, all sequence learners: recall of 18-bit keys, and the filtering of linear-Gaussian systems.

    OMP_NUM_THREADS=1 python benchmarks/sequences.py recall --minutes 8
    OMP_NUM_THREADS=1 python benchmarks/sequences.py kalman --minutes 8 --learners lstm gateddeltanet

Every recipe recall-NAME or kalman-NAME is trained for the same time on one core, and tested at up to four times the
trained length. Beside its score stands the size of its phi, in numbers a task. Writes results/sequences-COMMAND.json
beside this file after each learner; rows of others stay. Stopped runs resume.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from incontext import trained
from published import steps_for

import metabox
from metabox.files import read_json, write_json
from metabox.learners.base import Learner
from metabox.tasks import AssociativeRecall, KalmanFiltering
from metabox.tasks.place import Place
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "sequences-recall.json", "arguments": "recall", "tier": "full", "minutes": 90, "threads": 1},
    {"writes": "sequences-kalman.json", "arguments": "kalman", "tier": "full", "minutes": 90, "threads": 1},
]

Row = dict[str, Any]
LEARNERS = (
    *("lstm", "mann", "linearattention", "gateddeltanet", "mamba2", "xlstm", "ttt", "tttmlp"),
    *("gpicl", "incontext"),
)
KEYS, TRAINED = {"key_bits": 18, "value_bits": 8}, (2, 16)
PAIRS = (4, 8, 12, 16, 24, 32, 48, 64)  # from below the width of a key of GatedDeltaNet, 16, to above it
STEPS, LONG = 50, 200
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


COMMANDS = {"recall": recall, "kalman": kalman}


def words(command: str) -> Iterator[str]:
    """What is different from the recipes."""
    if command == "recall":
        for name, value in {"length": list(TRAINED), **KEYS}.items():
            yield from (f"--tasks.{name}", str(value))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=LEARNERS)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or Path(__file__).parent / "results" / f"sequences-{args.command}.json"
    rows: list[Row] = read_json(out)["rows"] if out.exists() else []
    for name in args.learners:
        recipe, more = f"{args.command}-{name}", [*words(args.command)]
        folder = args.runs / f"sequences-{recipe}-{args.minutes:g}min"
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
