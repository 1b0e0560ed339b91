"""The speed of everything, compared with the limits of the machine and with peers in the same run.

    OMP_NUM_THREADS=1 python benchmarks/speed.py --data-root PATH           # all parts, half an hour at most
    OMP_NUM_THREADS=1 python benchmarks/speed.py --parts sampling snail     # some; the others in the file stay
    OMP_NUM_THREADS=1 python benchmarks/speed.py --against CHECKOUT         # beside another version, ten minutes
    OMP_NUM_THREADS=1 python benchmarks/speed.py --start                    # start-up alone; also with --against

Every time is a median with quartiles over rounds that interleave all that is compared (see stopwatch.py).
Writes results/speed.json, against.json or start.json, a table for each part. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import against
import peers
import torch
from against_recipes import RECIPES
from growth import growth, two_processes
from readings import memory_mb
from sampling import bare
from stopwatch import (
    DEVICE,
    Call,
    cells,
    flop_of,
    interleaved,
    kept_bytes,
    limits,
    milliseconds,
    objective_for,
    quartiles,
    training_step,
)
from torch import Tensor, nn

from metabox import learners
from metabox.data.root import name_data_root
from metabox.episodes import Episodes, Examples
from metabox.files import read_json, write_json
from metabox.learners import SNAIL
from metabox.objectives import QueryLoss
from metabox.targets import Classes, Reals, TaskSpec
from metabox.tasks.images.omniglot import Omniglot
from metabox.tasks.place import Place
from metabox.testing import make_episodes
from metabox.training.allocator import keep_freed_memory
from metabox.training.environment import collect_environment
from metabox.training.precision import faster
from metabox.training.weighting import Weighting

JOBS = [
    {"writes": "speed.json", "tier": "quick", "minutes": 30, "data": True, "threads": 1},
    {"writes": "start.json", "arguments": "--start", "tier": "quick", "minutes": 2, "threads": 1},
]

RESULTS = Path(__file__).parent / "results"
Rows = list[dict[str, Any]]


def sampling(quick: bool) -> Rows:
    """Tasks per second, beside the bare gather of the same bytes and the peers' loaders of the same images."""
    rows: Rows = []
    for way, shot in ((5, 1), (20, 5)):
        sampler, tasks = Omniglot(rotations=False, n_way=way, n_shot=shot, n_query=15), 32
        gather = bare(sampler, tasks * way * (shot + 15), calls=64)
        gathered, sampled = itertools.count(), itertools.count()  # other tasks in every call, as in training
        calls: dict[str, Call] = {
            "gather": partial(_gather, gather, gathered),
            "metabox": partial(_sample, sampler, tasks, sampled),
            **peers.samplers(sampler),
        }
        times = interleaved(calls, rounds=3 if quick else 25, at_least_ms=30 if quick else 200)
        per_task = {name: t["median"] / (tasks if name in ("gather", "metabox") else 1) for name, t in times.items()}
        rows.append(
            {
                "way": way,
                "shot": shot,
                "n_query": 15,
                "tasks_per_s": {name: round(1e3 / ms, 1) for name, ms in per_task.items()},
                "share_of_gather": round(per_task["gather"] / per_task["metabox"], 3),
                "times_faster_than": {
                    name: round(per_task[name] / per_task["metabox"], 1)
                    for name in per_task.keys() - {"gather", "metabox"}
                },
                **cells(times),
            }
        )
    return rows


def _gather(gather: Callable[[int], Tensor], number: Iterator[int]) -> Tensor:
    return gather(next(number))


def _sample(sampler: Omniglot, tasks: int, number: Iterator[int]) -> Episodes:
    return sampler.sample(Place(tasks, "train", index=next(number)))


def _loss(objective: nn.Module, episodes: Episodes) -> Tensor:
    loss: Tensor = objective(episodes)["loss"].mean()
    return loss


STEPPED = ("CNP", "InContext", "ProtoNet", "MatchingNet", "RelationNet", "VERSA", "SNAIL", "LSTM", "MANN", "MAML")


def steps(quick: bool) -> Rows:
    """A training step, an evaluation, adapt and predict of each learner on Omniglot-like images."""
    sizes = [(5, 1, 8)] if quick else [(5, 1, 8), (5, 5, 8), (20, 1, 8), (5, 1, 32)]
    names = STEPPED[:1] if quick else STEPPED
    rows: Rows = []
    for way, shot, tasks in sizes:
        spec = TaskSpec((1, 28, 28), Classes(way))
        episodes = make_episodes(spec, tasks, way * shot, way * 5).to(DEVICE)
        for name in names if (way, shot, tasks) == sizes[0] else names[:2]:
            made = getattr(learners, name)
            if issubclass(made, learners.MAML) and not peers.has("learn2learn"):
                continue
            rows.append(
                {"learner": name, "way": way, "shot": shot, "tasks": tasks, **_step(made, spec, episodes, quick)}
            )
    return rows


def _step(make: Callable[..., Any], spec: TaskSpec, episodes: Episodes, quick: bool) -> dict[str, Any]:
    objective = objective_for(make, spec)
    learner, support, x = objective.learner, episodes.support, episodes.query.x
    step = training_step(objective, partial(_loss, objective, episodes))
    kept, flop = kept_bytes(objective.train(), episodes), flop_of(step)
    learner.eval()
    with torch.no_grad():
        phi = learner.adapt(support)

    def no_grad(call: Call) -> Call:
        return torch.no_grad()(call)

    def train() -> None:
        objective.train()
        step()
        objective.eval()

    times = interleaved(
        {
            "training_step": train,
            "evaluation": no_grad(lambda: objective(episodes)),
            "adapt": no_grad(lambda: learner.adapt(support)),
            "predict": no_grad(lambda: learner.predict(phi, x)),
            "predict_one": no_grad(lambda: learner.predict({k: v[:1] for k, v in phi.items()}, x[:1, :1])),
        },
        rounds=2 if quick else 5,
    )
    return {
        "parameters": sum(p.numel() for p in objective.parameters()),
        "training_gflop": round(flop / 1e9, 3),
        "gflop_per_s": round(flop / times["training_step"]["median"] / 1e6, 2),
        "kept_mb": round(kept / 1e6, 2),
        **cells(times),
    }


class OneSequenceForEachQuery(QueryLoss):
    """The published formulation of the same layers: support and one query are one sequence."""

    def predictions(self, episodes: Episodes) -> tuple[Tensor, Examples]:
        s, q = episodes.support, episodes.query
        whole = Examples(x=torch.cat([s.x, q.x], 1), y=torch.cat([s.y, q.y], 1), mask=torch.cat([s.mask, q.mask], 1))
        return self.learner.stream(whole)[:, -1:], q


def snail(quick: bool) -> Rows:
    """SNAIL at its published sizes, 32 tasks: queries trained per second, beside one query for each sequence."""
    rows: Rows = []
    for way, tasks in ((5, 2),) if quick else ((5, 32), (20, 32)):
        spec = TaskSpec((1, 28, 28), Classes(way))
        objective = objective_for(partial(SNAIL, horizon=way + 1), spec)
        single = OneSequenceForEachQuery(objective.learner)
        many, one = make_episodes(spec, tasks, way, way * 5), make_episodes(spec, tasks, way, 1)
        calls = {
            "metabox": training_step(objective, partial(_loss, objective, many)),
            "one_query_per_sequence": training_step(single, partial(_loss, single, one)),
        }
        times = interleaved(calls, rounds=1 if quick else 5)
        rate = {
            "metabox": tasks * way * 5e3 / times["metabox"]["median"],
            "one_query_per_sequence": tasks * 1e3 / times["one_query_per_sequence"]["median"],
        }
        rows.append(
            {
                "way": way,
                "shot": 1,
                "tasks": tasks,
                "parameters": sum(p.numel() for p in objective.parameters()),
                "queries_per_task": way * 5,
                "queries_per_s": {name: round(value, 1) for name, value in rate.items()},
                "times_faster": round(rate["metabox"] / rate["one_query_per_sequence"], 2),
                **cells(times),
            }
        )
    return rows


def processes(quick: bool) -> Rows:
    """Training steps of neural processes beside those of `neuralprocesses`: 16 tasks, 50 contexts, 50 targets.

    Ours in float32, and in the precision that the outer loop chooses by default on this machine.
    """
    tasks, n = (2, 5) if quick else (16, 50)
    spec = TaskSpec((1,), Reals(1))
    x, y = torch.rand(tasks, 2 * n, 1) * 4 - 2, torch.randn(tasks, 2 * n, 1)
    episodes = Episodes(support=Examples(x=x[:, :n], y=y[:, :n]), query=Examples(x=x[:, n:], y=y[:, n:]))
    theirs = tuple(part.transpose(1, 2).contiguous() for part in (x[:, :n], y[:, :n], x[:, n:], y[:, n:]))
    rows: Rows = []
    for name, (model, their_loss) in peers.neural_processes(width=128, depth=5).items():
        if quick and name == "ConvCNP":
            continue
        their_loss(*theirs)  # builds its layers
        objective = objective_for(getattr(learners, name), spec)
        loss, default = partial(_loss, objective, episodes), faster(objective.learner, DEVICE)
        calls = {
            "metabox": training_step(objective, loss),
            "metabox by default": training_step(objective, partial(_in_bf16, loss) if default == "bf16" else loss),
            "neuralprocesses": training_step(model, partial(their_loss, *theirs)),
        }
        times = interleaved(calls, rounds=2 if quick else 15)
        flop = {who: flop_of(calls[who]) for who in ("metabox", "neuralprocesses")}
        rows.append(
            {
                "learner": name,
                "parameters": {
                    k: sum(p.numel() for p in m.parameters())
                    for k, m in (("metabox", objective), ("neuralprocesses", model))
                },
                "default_precision": "bf16-mixed" if default == "bf16" else "32-true",
                "times_faster": {
                    who: round(times["neuralprocesses"]["median"] / times[who]["median"], 2)
                    for who in ("metabox", "metabox by default")
                },
                "gflop_per_s": {who: round(flop[who] / times[who]["median"] / 1e6, 1) for who in flop},
                **cells(times),
            }
        )
    return rows


def _in_bf16(loss: Callable[[], Tensor]) -> Tensor:
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        return loss()


def weighting(quick: bool) -> Rows:
    """A step of three tasks by each weighting of their losses, as a multiple of the plain sum's time."""
    from metabox.multitask.surgery import Surgery
    from metabox.multitask.weights import Fixed, GradNorm

    width, rows_in_batch = (64, 32) if quick else (512, 256)
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), *[m for _ in range(3) for m in (nn.Linear(width, width), nn.ReLU())]
    )
    heads, x, y = nn.Linear(width, 3), torch.randn(rows_in_batch, 64), torch.randn(rows_in_batch, 3)
    shared, share = list(trunk.parameters()), torch.full([3], 1 / 3)
    optimizer = torch.optim.Adam([*shared, *heads.parameters()], lr=1e-6, fused=True)

    def step_of(weigh: Any) -> Call:
        def step() -> None:
            weigh.backward((heads(trunk(x)) - y).square().mean(0), share, shared, Tensor.backward)
            optimizer.step()
            optimizer.zero_grad()

        return step

    ways: dict[str, Weighting] = {"plain sum": Fixed(3), "GradNorm": GradNorm(3)}
    if peers.has("torchjd"):
        ways |= {
            "PCGrad": Surgery(3, "pcgrad"),
            "PCGrad, every 4th step": Surgery(3, "pcgrad", every=4),
            "PCGrad at the representation": Surgery(3, "pcgrad", level="representation"),
        }
    times = interleaved({name: step_of(weigh) for name, weigh in ways.items()}, rounds=3 if quick else 11)
    plain = times["plain sum"]["median"]
    return [{"weighting": name, "times_plain_sum": round(t["median"] / plain, 2), "ms": t} for name, t in times.items()]


def memory(quick: bool) -> Rows:
    """Training steps of 16 tasks in processes that keep freed memory, as `run` does, and in processes that do not.

    `peak_mb` is the peak memory of the process.
    """
    rows: Rows = []
    for name in ("ProtoNet",) if quick else ("ProtoNet", "InContext", "SNAIL"):
        found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for _ in range(1 if quick else 5):
            for keep, measured in found.items():
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    measured.append(pool.apply(_alone, (name, keep, 2 if quick else 16)))
        ms = {keep: quartiles([m for m, _ in measured]) for keep, measured in found.items()}
        rows.append(
            {
                "learner": name,
                "tasks": 2 if quick else 16,
                "times_faster": round(ms[False]["median"] / ms[True]["median"], 2),
                "kept_ms": ms[True],
                "given_back_ms": ms[False],
                "peak_mb": {
                    "kept" if keep else "given_back": round(statistics.median(peak for _, peak in measured))
                    for keep, measured in found.items()
                },
            }
        )
    return rows


def _alone(name: str, keep: bool, tasks: int) -> tuple[float, float]:
    """Milliseconds of a training step, and the peak memory of the process in MB."""
    if keep:
        keep_freed_memory()
    spec = TaskSpec((1, 28, 28), Classes(5))
    objective, episodes = objective_for(getattr(learners, name), spec), make_episodes(spec, tasks, 5, 25)
    step = training_step(objective, partial(_loss, objective, episodes))
    times = [milliseconds(step) for _ in range(6)]
    return statistics.median(times[2:]), memory_mb()


PARTS: dict[str, Callable[[bool], Rows]] = {
    f.__name__: f for f in (sampling, steps, snail, processes, weighting, memory, growth, two_processes)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--data-root", help="folder that holds omniglot/, for the part sampling")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, measures nothing")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another version: its folder")
    parser.add_argument("--start", action="store_true", help="time commands until they do something")
    parser.add_argument("--rounds", type=int, default=5, help="of --against and --start")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="of --against")
    parser.add_argument("--out", type=Path, help="instead of the file in results/")
    options = parser.parse_args()
    name_data_root(options.data_root)
    keep_freed_memory()  # as in `run`; ours and the peers' alike
    parts: dict[str, Callable[[], Rows]] = {name: partial(PARTS[name], options.quick) for name in options.parts}
    about: dict[str, Any] = {}
    if options.against or options.start:
        parts, about = against.parts(options.against, options.start, options.rounds, options.recipes)
    name = "against" if options.against else "start" if options.start else "speed"
    out = options.out or RESULTS / f"{name}.json"
    result = read_json(out) if out.exists() else {}
    for name, measure in parts.items():
        began = time.perf_counter()
        rows = measure()
        # The limits of the machine are recorded with every part: parts may be measured at different times.
        with_it = {"seconds": round(time.perf_counter() - began), **about, **limits(), **collect_environment()}
        result |= {f"{name}_measured_with": with_it, name: rows}
        write_json(out, result)
        print(f"{name}: {with_it['seconds']} s", flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
