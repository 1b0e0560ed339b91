"""Weights in shards (FSDP): each device keeps a part of every weight, of its gradient and of the optimizer's state.

A step gathers the whole weights, and lets them go again. The objective is one unit, for learners are asked through
`adapt` and `predict` too, which FSDP does not see: whoever asks a learner outside of the objective's forward pass does
so inside `unsharded`. All functions here do nothing to what is not in shards; on shards all devices call them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """What Fabric's `ModelParallelStrategy` asks for: the model with its parameters in shards."""
    fully_shard(model, mesh=mesh["data_parallel"], reshard_after_forward=True)
    return model


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Inside, the model has its whole weights on every device, to read."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def whole(value: Any) -> Any:
    """A tensor with all its shards; in dictionaries and lists, each of the tensors."""
    if isinstance(value, dict):
        return {name: whole(part) for name, part in value.items()}
    if isinstance(value, list):
        return [whole(part) for part in value]
    return value.full_tensor() if isinstance(value, DTensor) else value


def sharded_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor in shards like those of another; each device cuts out its own."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_whole(modules: dict[str, nn.Module], tensors: dict[str, dict[str, Tensor]]) -> None:
    """Load whole weights into modules that may be in shards."""
    for name, module in modules.items():
        own = module.state_dict()
        module.load_state_dict({k: sharded_like(v, own[k]) if k in own else v for k, v in tensors[name].items()})


def load_whole_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's whole state, of parameters that may be in shards."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = {
        number: {
            name: sharded_like(v, parameters[number]) if isinstance(v, Tensor) else v for name, v in values.items()
        }
        for number, values in state["state"].items()
        if number < len(parameters)
    }
    optimizer.load_state_dict({**state, "state": kept})
