"""Functions from a Gaussian process: how far learners are from the exact posterior.

    python benchmarks/functions.py peers    # beside the package neuralprocesses, 100 s of training each
    python benchmarks/functions.py optimum  # the best learner: its gap by number of contexts, and by training time

The tasks are the 1-D "EQ" ones of neuralprocesses 0.2.7 with its torch backend (pip install neuralprocesses): 16 tasks
at a time, 0 to 30 contexts, 50 targets. A gap, in nats per target, is how far the log likelihood is below that of the
exact posterior at each target separately, its "diagonal". Each command writes results/functions-COMMAND.json beside
this file.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from incontext import measure, trained
from readings import log_of
from stopwatch import quartiles
from torch import Tensor, nn

import metabox
from metabox.episodes import Episodes, Examples
from metabox.learners import ACNP, CNP, TNPD, ConvCNP
from metabox.nn.backbones import MLP
from metabox.objectives import QueryLoss
from metabox.tasks import GaussianProcess
from metabox.tasks.functions.kernels import RBF
from metabox.tasks.place import Place

JOBS = [
    {"writes": "functions-optimum.json", "arguments": "optimum", "tier": "quick", "minutes": 6, "threads": 1},
    {"writes": "functions-peers.json", "arguments": "peers", "tier": "full", "minutes": 30, "threads": 1},
]

Row = dict[str, Any]
RECIPE = "gp-rbf-convcnp-cpu"
TEST_BATCHES = 250  # of 16 tasks
TASKS = GaussianProcess(
    kernel=RBF(length_scale=0.25), noise=math.sqrt(0.05), n_support=(0, 30), n_query=50, max_points=None, oracle="none"
)
# Ours: the learner whose gap is measured, its learning rate, and one of the peer's size to be timed.
OURS: dict[str, tuple[Any, float, Any]] = {
    "CNP": (CNP, 1e-3, partial(CNP, width=512, backbone=partial(MLP, width=512, depth=3))),
    "ACNP": (ACNP, 1e-3, partial(ACNP, width=384, backbone=partial(MLP, width=384))),
    "ConvCNP": (partial(ConvCNP, points_per_unit=32, depth=5), 2e-3, ConvCNP),
    "TNP-D": (TNPD, 1e-3, None),
}
PEERS = {  # built as in its documentation, with an independent normal for each target
    "CNP": ("construct_gnp", 1e-3),
    "ACNP": ("construct_agnp", 1e-3),
    "ConvCNP": ("construct_convgnp", 1e-3),
}


class Trainee:
    """A model, a source of training tasks, and the loss: the mean over tasks of nats per target."""

    def __init__(self, module: nn.Module, draw: Callable[[int], Any], loss: Callable[[Any], Tensor], lr: float) -> None:
        self.module, self.draw, self.loss, self.lr = module, draw, loss, lr
        self.optimizer = torch.optim.Adam(module.parameters(), lr)

    def step(self, number: int, rate: float, bf16: bool = False) -> float:
        """Make one step on new tasks; returns its seconds without sampling the tasks."""
        batch = self.draw(number)
        start = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 5.0)
        self.optimizer.step()
        return time.perf_counter() - start

    def train(self, budget: float) -> int:
        """Train for `budget` seconds, over which the learning rate decays along a cosine; returns the steps made."""
        used, number = 0.0, 0
        while used < budget:
            rise, fall = min(1.0, (number + 1) / 100), 0.5 + 0.5 * math.cos(math.pi * used / budget)
            used += self.step(number, self.lr * rise * (0.01 + 0.99 * fall))
            number += 1
        return number


def our(make: Any, lr: float) -> Trainee:
    torch.manual_seed(0)
    objective = QueryLoss(make(TASKS.spec))
    return Trainee(
        objective,
        lambda i: TASKS.sample(Place(16, "train", index=i)),
        lambda tasks: objective(tasks)["loss"].mean(),
        lr,
    )


def their_tasks(seed: int, oracle: bool = False) -> Any:
    """The generator of the peer, whose batches hold the oracle if requested."""
    import neuralprocesses.torch as nps

    options = {"seed": seed, "pred_logpdf": False, "pred_logpdf_diag": oracle}
    return nps.construct_predefined_gens(torch.float32, **options)["eq"]


def peer(name: str, lr: float) -> Trainee:
    import neuralprocesses.torch as nps

    torch.manual_seed(0)
    tasks = their_tasks(seed=0)
    module = getattr(nps, name)(likelihood="het")

    def loss(batch: Any) -> Tensor:
        log_p: Tensor = nps.loglik(module, batch["contexts"], batch["xt"], batch["yt"], normalise=True)
        return -log_p.mean()

    with torch.no_grad():
        loss(tasks.generate_batch())  # its modules create their weights on the first call
    return Trainee(module, lambda i: tasks.generate_batch(), loss, lr)


def as_episodes(batch: Any) -> Episodes:
    """A batch of the peer's generator, `[T, 1, N]`, as episodes."""

    def examples(x: Tensor, y: Tensor) -> Examples:
        return Examples(x=x.mT, y=y.mT, mask=torch.ones(len(x), x.shape[2], dtype=torch.bool))

    return Episodes(support=examples(*batch["contexts"][0]), query=examples(batch["xt"], batch["yt"]))


def gap(trainee: Trainee, batches: list[Any], ours: bool) -> Row:
    """The mean gap, with half its 95% interval over batches, because the tasks of a batch have as many contexts."""
    trainee.module.eval()
    with torch.no_grad():
        losses = [trainee.loss(as_episodes(batch) if ours else batch).item() for batch in batches]
    gaps = [loss + batch["pred_logpdf_diag"].mean().item() / 50 for loss, batch in zip(losses, batches, strict=True)]
    half = 1.96 * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return {"gap_nats_per_target": round(statistics.mean(gaps), 4), "interval_95": round(half, 4)}


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def speed(name: str, rounds: int) -> Row:
    """Milliseconds of a training step of models of equal size, interleaved; ours also in bf16."""
    ours, theirs = our(OURS[name][2], 1e-4), peer(*PEERS[name])
    steps: tuple[Callable[[int], float], ...] = (
        lambda i: theirs.step(i, 1e-4),
        lambda i: ours.step(i, 1e-4),
        lambda i: ours.step(i, 1e-4, bf16=True),
    )
    times = [[1e3 * step(i) for step in steps] for i in range(rounds + 3)][3:]
    them, us, half = (list(column) for column in zip(*times, strict=True))
    return {
        "model": name,
        "their_parameters": size(theirs.module),
        "our_parameters": size(ours.module),
        "their_ms": quartiles(them),
        "our_ms": quartiles(us),
        "our_ms_in_bf16": quartiles(half),
        "times_faster": quartiles([a / b for a, b in zip(them, us, strict=True)]),
        "times_faster_in_bf16": quartiles([a / b for a, b in zip(them, half, strict=True)]),
    }


def peers(args: argparse.Namespace) -> Row:
    """The gap of each model after the same training time, and the time of a step of models of equal size."""
    tests = their_tasks(seed=1, oracle=True)
    batches = [tests.generate_batch() for _ in range(args.batches)]
    rows: list[Row] = []
    for name, (make, lr, _) in OURS.items():
        trainees = {"metabox": our(make, lr)}
        if name in PEERS:
            trainees["neuralprocesses"] = peer(*PEERS[name])
        for package, trainee in trainees.items():
            steps = trainee.train(args.seconds)
            what = {"model": name, "package": package, "parameters": size(trainee.module), "lr": trainee.lr}
            rows.append(what | {"steps": steps, **gap(trainee, batches, package == "metabox")})
            print(json.dumps(rows[-1]), flush=True)
    speeds = [speed(name, args.rounds) for name in PEERS]
    return {"seconds_of_training": args.seconds, "test_tasks": 16 * args.batches, "gaps": rows, "speeds": speeds}


def optimum(args: argparse.Namespace) -> Row:
    """The gap of the best learner by number of contexts, and on validation tasks by seconds of training."""
    learner, run = trained(RECIPE, args.runs / RECIPE)
    rows = []
    for n in range(31):
        tasks = GaussianProcess(
            kernel=RBF(length_scale=0.25), noise=math.sqrt(0.05), n_support=n, n_query=50, max_points=None
        )
        scores = metabox.evaluate(learner, tasks, n_tasks=args.tasks)
        rows.append(
            {
                "contexts": n,
                "gap_nats_per_target": round(scores.mean("gap_to_oracle"), 5),
                "interval_95": round(scores.interval("gap_to_oracle"), 5),
                "nll": round(scores.mean("nll"), 4),
            }
        )
    gaps = [row["gap_nats_per_target"] for row in rows]
    return {
        "run": run,
        "gap": {"mean": round(statistics.mean(gaps), 5), "largest": max(gaps)},
        "contexts": rows,
        "validation": [
            {
                "step": line["step"],
                "seconds": round(line["seconds"], 1),
                "gap_nats_per_target": round(line["val"]["gap_to_oracle"], 5),
            }
            for line in log_of(args.runs / RECIPE)
            if "val" in line
        ],
    }


COMMANDS = {"peers": peers, "optimum": optimum}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=100, help="of training for each model of `peers`")
    parser.add_argument("--rounds", type=int, default=100, help="timed steps of `peers`")
    parser.add_argument("--batches", type=int, default=TEST_BATCHES, help="of 16 test tasks of `peers`")
    parser.add_argument("--tasks", type=int, default=2000, help="test tasks for each number of contexts of `optimum`")
    measure("functions", COMMANDS, parser)


if __name__ == "__main__":
    main()
