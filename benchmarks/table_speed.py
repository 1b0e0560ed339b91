"""What made-up tables cost beside the training that consumes them, and what a real one costs to learn.

    OMP_NUM_THREADS=1 python benchmarks/table_speed.py            # about three minutes
    OMP_NUM_THREADS=1 python benchmarks/table_speed.py --steps 2  # shows that it works

`drawing`: of each stage of a recipe, the seconds of this process's processor to draw the tables of a training step and
to take the step, in turn, means over the same batches; `step_to_draw` is the ratio of the means, with its range over
the tenths of the steps. `single_pass`: seconds by the clock to learn 1,000 rows and answer 250, the median of five.
Writes results/table-speed.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from manifest import RESULTS
from table_choices import Stepper

from metabox import TabularClassifier
from metabox import recipe as recipes
from metabox.files import write_json
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "table-speed.json", "tier": "quick", "minutes": 4, "threads": 1},
]

RECIPES = ("tabular-small", "tabular-small-reals")
PARTS = 10


def drawing(name: str, steps: int) -> list[dict[str, Any]]:
    """A row for each stage of a recipe."""
    parser = recipes.make_parser(recipes.find(name))
    config = recipes.parse(parser, [])
    made = parser.instantiate(config)
    stepper = Stepper(made.tasks, recipes.build(parser, config).learner, made.outer)
    rows = []
    for stage, first in enumerate((0, made.tasks.until), 1):
        times = np.array([stepper.seconds(index) for index in range(first, first + steps + 1)])[1:]  # one prepares
        draw, step = times.mean(0).tolist()
        parts = [float(part[:, 1].sum() / part[:, 0].sum()) for part in np.array_split(times, min(PARTS, steps))]
        rows.append(
            {
                "recipe": name,
                "stage": stage,
                "tables": made.outer.n_tasks,
                "steps": steps,
                "draw_ms": round(1e3 * draw, 1),
                "step_ms": round(1e3 * step, 1),
                "step_to_draw": round(step / draw, 1),
                "from": round(min(parts), 1),
                "to": round(max(parts), 1),
            }
        )
    return rows


def passes(model: str) -> list[dict[str, Any]]:
    """A row for each number of columns."""
    rng, found = np.random.default_rng(0), []
    for columns in (10, 30):
        x, y = rng.normal(size=(1250, columns)), rng.integers(0, 2, 1250)
        seconds = []
        for _ in range(5):
            begun = time.perf_counter()
            TabularClassifier(model).fit(x[:1000], y[:1000]).predict_proba(x[1000:])
            seconds.append(time.perf_counter() - begun)
        found.append({"rows": 1000, "columns": columns, "queries": 250, "seconds": round(float(np.median(seconds)), 3)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="of each stage")
    parser.add_argument("--out", type=Path, default=RESULTS / "table-speed.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [row for name in RECIPES for row in drawing(name, args.steps)]
    result: dict[str, Any] = {"environment": collect_environment(), "drawing": rows, "single_pass": passes(RECIPES[0])}
    write_json(args.out, result)
    for row in rows + result["single_pass"]:
        print(row)


if __name__ == "__main__":
    main()
