"""Training in bf16 beside float32, which the rule of `precision: auto` is fitted to: whole steps of `metabox.run`.

    OMP_NUM_THREADS=1 python benchmarks/precision.py            # four minutes at most

One worker process for each precision trains each recipe, in turns, on one thread (see against.py). A row has
milliseconds of a step, how many times as fast it is in bf16, width and convolutions of the learner, the rule's choice,
and whether that is the faster one in the fastest rounds: in the first, bf16 still makes a kernel for each new size.
Writes results/precision.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import against
import torch
from against_recipes import RECIPES

from metabox.files import write_json
from metabox.learners.base import Learner
from metabox.recipe import build, find, make_parser, parse
from metabox.training.environment import collect_environment
from metabox.training.precision import WIDE, convolves, faster, width

JOBS = [
    {"writes": "precision.json", "tier": "quick", "minutes": 6, "threads": 1},
]

SECONDS = 300.0  # of all rows, without what importing and the last round take
RESULTS = Path(__file__).parent / "results"


def _of_width(name: str, widths: Sequence[int], *options: str) -> dict[str, tuple[str, list[str]]]:
    """A recipe in several widths."""
    return {f"{name} {w}": (name, [word for option in options for word in (option, str(w))]) for w in widths}


MEASURED: dict[str, tuple[str, list[str]]] = {
    **{name: (name, []) for name in ("ProtoNet", "CNP", "InContext", "SNAIL")},
    **_of_width("linear InContext", (32, 64, 128, 256), "--learner.width"),
    **_of_width("GP CNP", (32, 128, 256, 512), "--learner.width", "--learner.backbone.width"),
    **_of_width("GP TNPD", (32, 64), "--learner.width"),
    **_of_width("linear Interleaved", (64,), "--learner.width"),
    **{name: (name, []) for name in ("GP ConvCNP", "recall LSTM", "recall MANN", "stream LSTM", "viewers MMoE")},
}
"""The recipe of against_recipes.py, and further options."""


def measure(names: Sequence[str], rounds: int, seconds: float) -> list[dict[str, Any]]:
    here, end = against.HERE, time.monotonic() + seconds
    options = {"bf16": ["--outer.precision", "bf16"], "float32": ["--outer.precision", "32"]}
    rows = []
    with against.working(dict.fromkeys(options, here), options) as workers:
        for done, name in enumerate(names):
            of, more = MEASURED[name]
            kind, recipe, given = RECIPES[of]
            row: dict[str, Any] = {"recipe": name, "kind": kind}
            share = (end - time.monotonic()) / (len(names) - done)
            try:
                row |= against.whole_step(workers, recipe, [*given, *more], rounds, share)
                row |= judged(learner_of(recipe, [*given, *more]), row["of_the_fastest_rounds"])
            except against.Failed as failure:
                row["left_out"] = str(failure)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def judged(learner: Learner, times_as_fast: float) -> dict[str, Any]:
    """What the rule sees of a learner, its choice, and whether that was the faster one."""
    choice = faster(learner, torch.device("cpu"))
    return {
        "width": None if convolves(learner) else width(learner),
        "convolutions": convolves(learner),
        "choice": choice,
        "choice_is_faster": (choice == "bf16") == (times_as_fast > 1),
    }


def learner_of(recipe: str, options: list[str]) -> Learner:
    parser = make_parser(find(recipe))
    return build(parser, parse(parser, options)).learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=list(MEASURED), default=list(MEASURED))
    parser.add_argument("--rounds", type=int, default=5, help="at most, if there is time")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which no row gets a third round")
    parser.add_argument("--out", type=Path, default=RESULTS / "precision.json")
    options = parser.parse_args()
    began = time.perf_counter()
    rows = measure(options.recipes, options.rounds, options.seconds)
    about = {"seconds": round(time.perf_counter() - began), "threshold_of_width": WIDE, **collect_environment()}
    write_json(options.out, {"measured_with": about, "steps": rows})


if __name__ == "__main__":
    main()
