"""Shared by all speed measurements: interleaved repeats, the limits of the machine, a fit of growth."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metabox.episodes import Episodes
from metabox.learners.base import Learner
from metabox.objectives import QueryLoss
from metabox.targets import TaskSpec

Call = Callable[[], object]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def milliseconds(call: Call, calls: int = 1) -> float:
    """Mean time of a call."""
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    wait()
    return 1e3 * (time.perf_counter() - start) / calls


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def interleaved(calls: Mapping[str, Call], rounds: int, at_least_ms: float = 30.0) -> dict[str, dict[str, float]]:
    """Milliseconds of each call, as quartiles over rounds; a round times each call once, one after the other.

    So all run under the same load of the machine. Short calls are repeated until they can be timed.
    """
    first = {name: min(milliseconds(call), milliseconds(call)) for name, call in calls.items()}
    often = {name: max(1, math.ceil(at_least_ms / ms)) for name, ms in first.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(milliseconds(call, often[name]))
    return {name: quartiles(values) for name, values in times.items()}


def quartiles(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": round(median, 5), "q1": round(low, 5), "q3": round(high, 5)}


def limits() -> dict[str, float]:
    """Limits of the device: bytes per second of a copy (read and written), FLOP per second of a float32 product."""
    size = 2**28 if DEVICE.type == "cuda" else 2**25
    a, b = torch.empty(size, device=DEVICE), torch.zeros(size, device=DEVICE)
    n = 8192 if DEVICE.type == "cuda" else 1024
    m = torch.randn(n, n, device=DEVICE)
    times = interleaved({"copy": lambda: a.copy_(b), "product": lambda: m @ m}, rounds=7)
    return {
        "copy_gb_per_s": round(8 * size / times["copy"]["median"] / 1e6, 2),
        "product_gflop_per_s": round(2 * n**3 / times["product"]["median"] / 1e6, 1),
    }


def objective_for(make: Callable[[TaskSpec], Learner], spec: TaskSpec) -> QueryLoss:
    torch.manual_seed(0)
    return QueryLoss(make(spec)).to(DEVICE)


def training_step(model: nn.Module, loss: Callable[[], Tensor]) -> Call:
    """Forward, backward and Adam's step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class _NoModules:
    """Stands in for what finds the module of each product by hooks on gradients.

    Torch refuses those inside a `torch.autograd.Function` whose backward pass takes gradients itself.
    """

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def flop_counter() -> Any:
    """Counts multiplications and additions in products and convolutions: torch's `FlopCounterMode`."""
    from torch.utils.flop_counter import FlopCounterMode

    counter: Any = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()
    return counter


def flop_of(call: Call) -> int:
    """Multiplications and additions in the products and convolutions of a call."""
    with flop_counter() as counter:
        call()
    return int(counter.get_total_flops())


def kept_bytes(objective: QueryLoss, episodes: Episodes) -> int:
    """The memory that the forward pass keeps for the backward pass, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in objective.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective(episodes)["loss"].mean()
    del loss
    return sum(kept.values())


def exponent(sizes: list[int], values: list[float]) -> float:
    """b of value = a * size^b, by least squares on the logarithms of the larger half of the sizes."""
    half = min(len(sizes) // 2, len(sizes) - 2)
    x, y = [math.log(s) for s in sizes[half:]], [math.log(v) for v in values[half:]]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    return round(
        sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x), 2
    )


def cells(times: Mapping[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The values as in a row of results."""
    return {f"{name.replace(' ', '_')}_ms": value for name, value in times.items()}
