"""`compile: on` beside `off` on a CPU, which `auto` is decided by: whole steps of `metabox.run`.

    OMP_NUM_THREADS=1 python benchmarks/compiled.py             # eight minutes at most

One worker process for each choice trains each recipe, in turns, on one thread (see against.py). `times_as_fast` is how
many times as fast the step is without; compiling, which comes before the first step, is not counted.
Writes results/compiled.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import against
from against_recipes import RECIPES

from metabox.files import write_json
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "compiled.json", "tier": "quick", "minutes": 8, "threads": 1},
]

MEASURED = ("ProtoNet", "CNP", "InContext", "SNAIL", "linear InContext", "GP ConvCNP")
SECONDS = 60.0  # of a recipe, after which no third or later round starts
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(MEASURED))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "compiled.json")
    options = parser.parse_args()
    began, rows = time.perf_counter(), []
    choices = {"off": ["--outer.compile", "off"], "on": ["--outer.compile", "on"]}
    with against.working(dict.fromkeys(choices, against.HERE), choices) as workers:
        for name in options.recipes:
            kind, recipe, given = RECIPES[name]
            row: dict[str, Any] = {"recipe": name, "kind": kind}
            try:
                row |= against.whole_step(workers, recipe, given, options.rounds, SECONDS)
            except against.Failed as failure:
                row["left_out"] = str(failure)
            rows.append(row)
            print(json.dumps(row), flush=True)
    about = {"seconds": round(time.perf_counter() - began), **collect_environment()}
    write_json(options.out, {"measured_with": about, "steps": rows})


if __name__ == "__main__":
    main()
