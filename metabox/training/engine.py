"""What the outer loop asks of the engine, Lightning Fabric: precision, strategy, compiling, an end in good order."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import nn

from metabox.episodes import Episodes
from metabox.objectives import Objective
from metabox.training.settings import OuterLoop
from metabox.training.sharding import shard

log = logging.getLogger(__name__)


def compiles(outer: OuterLoop, device: torch.device) -> bool:
    """Whether the objective is to be compiled."""
    return outer.compile in ("on", "graphs") or (
        outer.compile == "auto" and device.type == "cuda" and not outer.sharded
    )


def compiled(
    model: Objective, episodes: Episodes, precision: Precision, graphs: bool = False, backend: str = "inductor"
) -> nn.Module:
    """The model compiled, after a trial step that changes nothing; or as it is, with a line in the log, if that fails.

    Sizes of the batch that change (ragged shots) are compiled once more, as symbols, and then no more. With `graphs`
    the kernels of each size are recorded as one CUDA graph, which takes their launches away.
    """
    buffers = [buffer.clone() for buffer in model.buffers()]
    mode = "reduce-overhead" if graphs else None
    module = cast(nn.Module, torch.compile(model.train(), backend=backend, mode=mode))
    try:
        with precision.forward_context():
            loss = module(episodes)["loss"].mean()
        loss.backward()
    except Exception as error:  # a compiler is missing, or meets what it cannot do: of many kinds
        log.warning("torch.compile fails here, training goes on without: %s", str(error).strip().partition("\n")[0])
        return model
    finally:
        model.zero_grad()
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(value)
    return module


class Autocast(MixedPrecision):
    """bf16 autocast of the forward pass that leaves the episodes alone."""

    def convert_input(self, data: Any) -> Any:
        # Fabric would round real inputs and targets to bf16 before the model sees them.
        return data


def precision_of(outer: OuterLoop) -> Precision:
    on_cuda = torch.cuda.is_available() and outer.accelerator in ("auto", "gpu", "cuda")
    fast = torch.cuda.is_bf16_supported(False) if on_cuda else torch.cpu._is_avx512_bf16_supported()
    if outer.precision == "bf16" or (outer.precision == "auto" and fast):
        return Autocast("bf16-mixed", "cuda" if on_cuda else "cpu")
    return Precision()


def strategy_of(outer: OuterLoop) -> Strategy | str:
    """Fabric's own choice, but with the time limit; one device waits for nobody."""
    limit = timedelta(seconds=outer.timeout)
    if outer.sharded:
        world = int(outer.devices) * outer.num_nodes
        return ModelParallelStrategy(shard, data_parallel_size=world, tensor_parallel_size=1, timeout=limit)
    if outer.strategy not in ("auto", "ddp") or (outer.devices == outer.num_nodes == 1):
        return outer.strategy
    return DDPStrategy(timeout=limit)


def engine_of(outer: OuterLoop) -> Fabric:
    """Lightning Fabric for an outer loop, not launched.

    Raises:
        ValueError: if this machine has no such devices, or Fabric knows no such strategy.
    """
    try:
        return Fabric(
            accelerator=outer.accelerator,
            devices=outer.devices,
            num_nodes=outer.num_nodes,
            strategy=strategy_of(outer),
            plugins=[precision_of(outer)],
        )
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"expected accelerator, devices, num_nodes and strategy that this machine has, got {outer.accelerator!r}, "
            f"{outer.devices!r}, {outer.num_nodes} and {outer.strategy!r}: {reason}"
        ) from error


def world_size(fabric: Fabric) -> int:
    """Processes of a run, known before it is launched."""
    return len(getattr(fabric.strategy, "parallel_devices", None) or [0]) * getattr(fabric.strategy, "num_nodes", 1)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of a device; `torch.manual_seed` takes the time to seed every device."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@contextmanager
def together(world_size: int) -> Iterator[None]:
    """Says so where a step fails because another process of the run did."""
    try:
        yield
    except RuntimeError as error:
        if world_size > 1 and (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise ConnectionError(
                "another process of this run ended, or was waited for in vain; what it printed says why. "
                f"The same command goes on from the last checkpoint ({error})"
            ) from error
        raise


class Stop:
    """Whether a run is to stop, about which all its processes agree.

    Several hear of a signal a step later: they wait for the step before, not for that which is just being computed.

    Args:
        fabric: launched.
        signals: that this process has received.
    """

    def __init__(self, fabric: Fabric, signals: list[int]) -> None:
        self.fabric, self.signals, self.asked = fabric, signals, torch.zeros(())

    def __call__(self) -> bool:
        """To be asked once in each step."""
        if self.fabric.world_size == 1:
            return bool(self.signals)
        mine = torch.full((), float(bool(self.signals)), device=self.fabric.device)
        before, self.asked = self.asked, cast(torch.Tensor, self.fabric.all_reduce(mine))
        return bool(before)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM while a step runs, so that the loop can end at a whole step."""
    received: list[int] = []
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            before[number] = signal.signal(number, lambda n, _frame: received.append(n))
        except ValueError:  # not the main thread: its owner handles signals
            break
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
