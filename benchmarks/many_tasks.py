"""Ten to ten thousand named tasks in one network: parameters, memory and time of a step, by the number of tasks.

    python benchmarks/many_tasks.py            # two minutes of one core

The batch is fixed, 16 tasks of 64 rows, and the losses are their plain sum. `step_ms` is drawing, forward and backward
pass, in processor time; the optimizer, which changes all parameters, is apart. The gradients of all parameters are
written in each step, also of those that no row reaches: this is what grows, if a task has a whole network. `growth` is
the time of a step against that of ten tasks, in the same round. `memory_mb` is what drawing, building and training one
step needs at most, beyond what the process held before, in a process of its own. Writes results/many-tasks.json beside
this file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from readings import forget_peak, memory_mb
from stopwatch import quartiles

from metabox.files import write_json
from metabox.learners import HardSharing, Independent, MMoE
from metabox.learners.base import Learner
from metabox.nn.backbones import MLP
from metabox.objectives import QueryLoss
from metabox.targets import Reals, TaskSpec
from metabox.tasks.named import InMemory
from metabox.tasks.place import Place
from metabox.tasks.rows import Rows
from metabox.training.environment import collect_environment
from metabox.training.optimizers import make_optimizer, parameter_groups
from metabox.training.settings import OuterLoop

JOBS = [
    {"writes": "many-tasks.json", "tier": "quick", "minutes": 3, "threads": 1},
]

COUNTS = (10, 100, 1000, 10000)
LEARNERS: dict[str, Callable[..., Learner]] = {
    "heads": partial(HardSharing, backbone=partial(MLP, width=128)),
    "MMoE": MMoE,
    "independent": partial(Independent, width=16),
}
T, M, ROWS, DIM = 16, 64, 80, 16
Row = dict[str, Any]


def sampler(k: int) -> InMemory:
    """y is one of the numbers of x, by the task; 64 training rows of each."""
    x = torch.randn(k * ROWS, DIM, generator=torch.Generator().manual_seed(0))
    task = np.repeat(np.arange(k), ROWS)
    spec = TaskSpec((DIM,), Reals(1, noise=1), descriptor_size=k, index_size=k, tasks=tuple(map(str, range(k))))
    y = x.gather(1, torch.from_numpy(task % DIM)[:, None])
    split = np.tile(np.repeat(["train", "val", "test"], [M, 8, 8]), k)
    return InMemory(Rows(x=x, y=y, split=split, spec=spec, task=task), n_query=M)


class Trainee:
    """A learner of K tasks, whose steps are timed."""

    def __init__(self, name: str, k: int) -> None:
        torch.manual_seed(0)
        self.tasks, self.number = sampler(k), 0
        self.objective = QueryLoss(LEARNERS[name](self.tasks.spec)).train()
        self.optimizer = make_optimizer(OuterLoop(lr=1e-3), parameter_groups(self.objective))

    def step(self) -> tuple[float, float]:
        """Milliseconds of a step without the optimizer, and of the optimizer."""
        self.optimizer.zero_grad()
        start = time.process_time()
        loss = self.objective(self.tasks.sample(Place(T, index=self.number)))["loss"].mean()
        loss.backward()
        middle = time.process_time()
        self.optimizer.step()
        self.number += 1
        return 1e3 * (middle - start), 1e3 * (time.process_time() - middle)


def memory(name: str, k: int) -> float:
    before = forget_peak()
    Trainee(name, k).step()
    return memory_mb() - before


def alone(name: str, k: int) -> float:
    """`memory` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(memory, name, k).result()


def rows(name: str, rounds: int) -> list[Row]:
    trainees = {k: Trainee(name, k) for k in COUNTS}
    times: dict[int, list[tuple[float, float]]] = {k: [] for k in COUNTS}
    for number in range(rounds + 5):
        for k, trainee in trainees.items():
            timed = trainee.step()
            if number >= 5:
                times[k].append(timed)
    return [
        {
            "learner": name,
            "tasks": k,
            "parameters": sum(p.numel() for p in trainees[k].objective.parameters()),
            "memory_mb": round(alone(name, k), 1),
            "step_ms": quartiles([step for step, _ in times[k]]),
            "growth": quartiles(
                [step / first for (step, _), (first, _) in zip(times[k], times[COUNTS[0]], strict=True)]
            ),
            "optimizer_ms": quartiles([after for _, after in times[k]]),
        }
        for k in COUNTS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: list[Row] = []
    for name in LEARNERS:
        found += rows(name, args.rounds)
        print(*map(json.dumps, found[-len(COUNTS) :]), sep="\n", flush=True)
    out = Path(__file__).parent / "results" / "many-tasks.json"
    write_json(out, {"many_tasks": found, "many_tasks_measured_with": collect_environment()})


if __name__ == "__main__":
    main()
