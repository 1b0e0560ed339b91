"""A thousand tasks that are kept, one query each: all in one batch, beside adapting each of them anew.

    OMP_NUM_THREADS=1 python benchmarks/serving.py

The tasks are 5-way 5-shot of 28 x 28 images, for InContext with Conv4. Its weights are random, since the time of a pass
does not depend on them. `batched` answers from the adaptations that are kept, by `metabox.querying.predict_many`, as
the server does for requests that wait at the same time; `one by one` does the same by `Model.predict`; `anew` adapts
and predicts, as a server without a memory would. The three take turns; a row has quartiles over the rounds. Writes
results/serving.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from stopwatch import milliseconds, quartiles
from torch import Tensor

from metabox.adaptation import Adaptation
from metabox.files import write_json
from metabox.learners import InContext
from metabox.model import Model
from metabox.querying import predict_many
from metabox.targets import Classes, TaskSpec
from metabox.training.environment import collect_environment

RESULTS = Path(__file__).parent / "results" / "serving.json"
JOBS = [{"writes": "serving.json", "tier": "quick", "minutes": 2, "threads": 1}]
WAY, SHOT = 5, 5


def measure(n_tasks: int, rounds: int) -> dict[str, Any]:
    """Rates in tasks per second, their ratios within a round, and how far the answers are apart at most."""
    torch.manual_seed(0)
    model = Model(InContext(TaskSpec((1, 28, 28), Classes(WAY))))
    supports = torch.randint(256, (n_tasks, WAY * SHOT, 1, 28, 28), dtype=torch.uint8)
    queries = list(torch.randint(256, (n_tasks, 1, 1, 28, 28), dtype=torch.uint8))
    labels, names = torch.arange(WAY).repeat(SHOT), tuple("abcde")

    def adapted(i: int) -> Adaptation:
        return model.adapted(supports[i], labels, names)

    kept = [adapted(i) for i in range(n_tasks)]
    calls: dict[str, Callable[[], list[Tensor]]] = {
        "batched": lambda: predict_many(model, kept, queries),
        "one by one": lambda: [model.predict(kept[i], queries[i]) for i in range(n_tasks)],
        "anew": lambda: [model.predict(adapted(i), queries[i]) for i in range(n_tasks)],
    }
    answers: dict[str, list[Tensor]] = {name: call() for name, call in calls.items()}  # warms up, too
    apart = max(
        float((a - b).abs().max()) for name in calls for a, b in zip(answers["anew"], answers[name], strict=True)
    )
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name, call in calls.items():
            times[name].append(milliseconds(call))
        print(
            f"round {number}: { {name: round(values[-1]) for name, values in times.items()} } ms",
            file=sys.stderr,
            flush=True,
        )
    rows = [
        {"answers": name, "tasks_per_s": quartiles([1e3 * n_tasks / ms for ms in values])}
        for name, values in times.items()
    ]
    ratio = [anew / batched for anew, batched in zip(times["anew"], times["batched"], strict=True)]
    return {
        "serving": rows,
        "tasks": n_tasks,
        "rounds": rounds,
        "batched_times_the_rate_of_anew": {**quartiles(ratio), "least": round(min(ratio), 2)},
        "bytes_kept_per_task": statistics.fmean(part.n_bytes for part in kept),
        "answers_apart_at_most": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = measure(options.tasks, options.rounds)
    write_json(options.out.resolve(), {**found, "measured_with": collect_environment()})
    print(found)


if __name__ == "__main__":
    main()
