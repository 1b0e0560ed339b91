"""The engine, Lightning Fabric: precision and strategy. Only this module imports it, and only when a run starts."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, cast

import torch
from torch import nn

from metabox.training.precision import Choice, choose
from metabox.training.settings import OuterLoop
from metabox.training.sharding import shard

# If torchmetrics is installed, Fabric imports it, only to read its version; that takes longer than torch itself.
_known = {name: module for name, module in sys.modules.items() if name == "torchmetrics"}
sys.modules["torchmetrics"] = None  # type: ignore[assignment]
try:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.precision import MixedPrecision
    from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy, Strategy
finally:
    del sys.modules["torchmetrics"]
    sys.modules.update(_known)


class Autocast(MixedPrecision):
    """bf16 autocast of the forward pass that leaves the episodes unchanged, or float32.

    Fabric is made before the learner, so the choice comes later: `switch`. Until then it is float32.
    """

    def __init__(self) -> None:
        super().__init__("bf16-mixed", "cpu")
        self.precision = "32-true"

    def switch(self, choice: Choice, device: torch.device) -> None:
        self.precision = "bf16-mixed" if choice == "bf16" else "32-true"
        self.device = "cuda" if device.type == "cuda" else "cpu"

    def forward_context(self) -> AbstractContextManager[Any]:
        return super().forward_context() if self.precision == "bf16-mixed" else nullcontext()

    def convert_input(self, data: Any) -> Any:
        # Fabric would round real inputs and targets to bf16 before the model sees them.
        return data

    def convert_output(self, data: Any) -> Any:
        return super().convert_output(data) if self.precision == "bf16-mixed" else data


def set_precision(fabric: Fabric, outer: OuterLoop, model: nn.Module, recorded: object) -> Choice:
    """Train a model in the precision that `choose` says; all processes in that of the first."""
    choice: Choice = fabric.broadcast(choose(outer, model, fabric.device, recorded))
    cast(Autocast, fabric.strategy.precision).switch(choice, fabric.device)
    return choice


def strategy_of(outer: OuterLoop) -> Strategy | str:
    """Fabric's own choice, but with the time limit; a single device has nothing to wait for."""
    limit = timedelta(seconds=outer.timeout)
    if outer.sharded:
        world = int(outer.devices) * outer.num_nodes
        return ModelParallelStrategy(shard, data_parallel_size=world, tensor_parallel_size=1, timeout=limit)
    if outer.strategy not in ("auto", "ddp") or (outer.devices == outer.num_nodes == 1):
        return outer.strategy
    # Running statistics are not read in training; validation takes those of the first process, as a checkpoint does.
    return DDPStrategy(timeout=limit, gradient_as_bucket_view=True, broadcast_buffers=False)


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
            plugins=[Autocast()],
        )
    except Exception as error:  # Fabric raises many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"expected accelerator, devices, num_nodes and strategy that this machine has, got {outer.accelerator!r}, "
            f"{outer.devices!r}, {outer.num_nodes} and {outer.strategy!r}: {reason}"
        ) from error
