"""The worker process of a checkout for recurrent.py: times the loss of a stream and its gradient on request.

Each input line of JSON, {"learner": NAME, "bf16": BOOL, "calls": N}, is answered by one: milliseconds of each
call, [by the clock, of processor time].
"""

from __future__ import annotations

import json
import sys
import time
from functools import cache

import torch

import metabox
from metabox import learners
from metabox.nn.backbones import Flatten
from metabox.objectives import StreamLoss
from metabox.targets import Classes, TaskSpec
from metabox.testing import make_episodes
from metabox.training.allocator import keep_freed_memory

TASKS, STEPS, SPEC = 16, 55, TaskSpec((1, 20, 20), Classes(5))
EPISODES = make_episodes(SPEC, TASKS, STEPS - 5, 5)


@cache
def objective(name: str) -> StreamLoss:
    torch.manual_seed(0)
    return StreamLoss(getattr(learners, name)(SPEC, backbone=Flatten)).train()


def milliseconds(learner: str, bf16: bool, calls: int) -> list[list[float]]:
    model, found = objective(learner), []
    for _ in range(calls):
        model.zero_grad()
        start = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(EPISODES)["loss"].mean()
        loss.backward()
        end = time.perf_counter(), time.process_time()
        found.append([1e3 * (after - before) for before, after in zip(start, end, strict=True)])
    return found


def main() -> None:
    keep_freed_memory()  # as in training
    torch.set_num_threads(1)
    print(json.dumps({"package": metabox.__file__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(milliseconds(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
