"""The measurements of gpu.py, each in a process of its own: the limits of the device, steps, sampling, training."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from alone import Tell
from budget import row as trained
from stopwatch import flop_counter

from metabox import recipe as recipes
from metabox.episodes import Device, Episodes
from metabox.tasks import GaussianProcess, Omniglot
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.training.environment import collect_environment
from metabox.training.loop import run

WARM_UP = 10  # steps
SLOW = 8.0  # seconds after which the warm-up ends earlier
BLOCKS = 10
PROFILED = 2  # steps: those of a recurrent learner have ten thousand kernels each


def limits(tell: Tell, device: str, quick: bool, data_root: str | None) -> None:
    """Time products in bf16 and float32, a copy and the smallest kernel; and pack Omniglot for later measurements."""
    import stopwatch  # not above: it checks for CUDA

    stopwatch.DEVICE = torch.device(device)
    tell({"environment": collect_environment(), "threads": torch.get_num_threads()})
    n, size = (8192, 2**28) if device == "cuda" else (256, 2**18) if quick else (1024, 2**25)
    a, b = torch.empty(size, device=device), torch.zeros(size, device=device)
    m = torch.randn(n, n, device=device)
    half, one = m.bfloat16(), torch.zeros(1, device=device)
    calls: dict[str, Callable[[], object]] = {
        "copy": lambda: a.copy_(b),
        "float32": lambda: m @ m,
        "bf16": lambda: half @ half,
        "kernel": lambda: one.add_(1),
    }
    ms = {name: t["median"] for name, t in stopwatch.interleaved(calls, 3 if quick else 7).items()}
    tell(
        {
            "copy_gb_per_s": round(8 * size / ms["copy"] / 1e6, 1),
            "float32_product_tflop_per_s": round(2 * n**3 / ms["float32"] / 1e9, 3),
            "bf16_product_tflop_per_s": round(2 * n**3 / ms["bf16"] / 1e9, 3),
            "small_kernel_us": round(1e3 * ms["kernel"], 2),
        }
    )
    if data_root:
        start = time.perf_counter()
        _ = Omniglot(data_root=data_root).images
        tell({"omniglot_packed_s": round(time.perf_counter() - start, 2)})


# Steps


class Enough(BaseException):
    """Ends a run that has been measured."""


class Watch(EpisodeSampler):
    """The tasks of a run, and the clock of its steps: each call of `sample` starts a step and ends the one before.

    The first call is that of the checks before the loop. After the warm-up, steps are timed in ten blocks (fewer if
    they are slow), each of which waits for the device once; then the FLOP of one step are counted and a few steps are
    profiled.
    """

    def __init__(self, tasks: EpisodeSampler, tell: Tell, device: str, seconds: float, count: bool) -> None:
        self._tasks, self._tell, self._cuda, self._seconds = tasks, tell, device == "cuda", seconds
        self._began = time.perf_counter()
        self._calls = 0
        self._steps = self._phases(count)

    @property
    def spec(self) -> Any:  # type: ignore[override]
        return self._tasks.spec

    @property
    def config(self) -> dict[str, Any]:
        return self._tasks.config

    def fingerprint(self) -> str:
        return self._tasks.fingerprint()

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        self._calls += 1
        if self._calls > 1:
            next(self._steps)
        return self._tasks.sample(place, device)

    def _clock(self) -> float:
        """The time once the device is done."""
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _phases(self, count: bool) -> Iterator[None]:
        """The phases of the measurement, one step for each `next`."""
        yield
        self._tell({"first_step_s": round(self._clock() - self._began, 2)})
        for _ in range(WARM_UP):
            yield
            if time.perf_counter() - self._began > SLOW:
                break
        yield from self._timed()
        yield from self._looked_into(count)
        raise Enough

    def _timed(self) -> Iterator[None]:
        from stopwatch import quartiles

        blocks: list[tuple[float, int]] = []
        begin = self._clock()
        while len(blocks) < BLOCKS and sum(t for t, _ in blocks) < 3 * self._seconds:
            steps = 0
            while not steps or time.perf_counter() - begin < self._seconds / BLOCKS:
                yield
                steps += 1
            now = self._clock()
            blocks.append((now - begin, steps))
            begin = now
        seconds, n = (sum(column) for column in zip(*blocks, strict=True))
        ms = quartiles([1e3 * t / k for t, k in blocks]) | {"mean": round(1e3 * seconds / n, 4)}
        self._tell({"step_ms": ms, "timed_steps": n})
        if self._cuda:
            self._tell({"peak_memory_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1)})

    def _looked_into(self, count: bool) -> Iterator[None]:
        from torch.profiler import ProfilerActivity, profile

        if count:
            with flop_counter() as counter:
                yield
            self._tell({"gflop": round(counter.get_total_flops() / 1e9, 4)})
        activity = ProfilerActivity.CUDA if self._cuda else ProfilerActivity.CPU
        with profile(activities=[activity]) as profiler:
            for _ in range(PROFILED):
                yield
            self._clock()
        self._tell(profiled(profiler.events() or []))


def profiled(events: Any) -> dict[str, Any]:
    """The kernels, copies, launches and waits of a step, from the events of PROFILED steps."""
    found = dict.fromkeys(("kernels", "copies", "launches", "host_waits"), 0)
    busy = 0.0
    for event in events:
        name = event.name
        if "CUDA" in str(event.device_type):
            copy = name.startswith(("Memcpy", "Memset"))
            annotation = getattr(event, "is_user_annotation", False) or name.startswith(("Optimizer", "## Call"))
            if not annotation:
                found["copies" if copy else "kernels"] += 1
                busy += event.time_range.elapsed_us()
        elif name.startswith(("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")):
            found["launches"] += 1
        elif name.startswith(("cudaStreamSynchronize", "cudaEventSynchronize")):
            found["host_waits"] += 1
    return {name: round(n / PROFILED, 1) for name, n in found.items()} | {"busy_ms": round(busy / 1e3 / PROFILED, 4)}


def step(tell: Tell, name: str, device: str, compiled: str | None, seconds: float) -> None:
    """Time the steps of a recipe inside `run`; for `compiled` None, as the recipe says."""
    parser = recipes.make_parser(recipes.find(name))
    made = parser.instantiate(recipes.parse(parser, []))
    outer = replace(made.outer, accelerator=device, validate_every=made.outer.steps)
    outer = replace(outer, compile=compiled) if compiled else outer
    tasks = Watch(made.tasks, tell, device, seconds, count=compiled == "off")
    tell({"tasks": outer.n_tasks})
    evaluation = made.evaluation or made.tasks
    with tempfile.TemporaryDirectory() as out, suppress(Enough):
        run(tasks, made.learner, outer, evaluation=evaluation, objective=made.objective, scale=made.scale, out=out)


# Sampling


def sampling(tell: Tell, device: str, data_root: str | None, quick: bool) -> None:
    """Tasks per second, and of the gather of the images alone."""
    import stopwatch

    stopwatch.DEVICE = torch.device(device)
    rounds, least = (1, 1.0) if quick else (7, 60.0)

    def rate(name: str, tasks: int, call: Callable[[], object]) -> None:
        ms = stopwatch.interleaved({name: call}, rounds, least)[name]
        tell({name: {"tasks_per_s": round(1e3 * tasks / ms["median"], 1), "tasks_a_call": tasks, "ms": ms}})

    for oracle in ("none", "known"):
        functions = GaussianProcess(oracle=oracle)
        rate(f"gaussian process, oracle {oracle}", 16, _drawing(functions, 16, device))
    if not data_root:
        tell({"left_out": "Omniglot: no --data-root"})
        return
    for way, shot in ((5, 1), (20, 5)):
        images = Omniglot(n_way=way, n_shot=shot, n_query=15, rotations=True, data_root=data_root)
        rate(f"omniglot {way}w{shot}s", 32, _drawing(images, 32, device))
        rows = images.sample(Place(32, "train")).origin
        assert rows is not None
        gather: Callable[[], object] = partial(images.images.pictures, rows.flatten(), device)
        rate(f"omniglot {way}w{shot}s, gather alone", 32, gather)


def _drawing(tasks: EpisodeSampler, n_tasks: int, device: str) -> Callable[[], object]:
    """Samples new tasks in every call, as in training."""
    number = iter(range(1 << 31))
    return lambda: tasks.sample(Place(n_tasks, "train", index=next(number)), device)


# Training


def training(tell: Tell, name: str, steps: int, device: str, compiled: str | None, runs: str) -> None:
    """A run of `steps` steps, and its accuracy on the recipe's test tasks."""
    tell({"steps": steps, "compile": compiled or "as the recipe says"})
    more = ["--outer.compile", compiled] if compiled else []
    tell(trained(name, steps, 0, Path(runs), ["--outer.accelerator", device, *more]))
