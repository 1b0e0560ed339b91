"""Sharded weights (FSDP): each device keeps a shard of every weight, of its gradient and of the optimizer state.

A step gathers the full weights and frees them again. The objective is one FSDP unit, because FSDP does not see calls of
a learner's `adapt` and `predict`: outside the objective's forward pass, call a learner inside `unsharded`. All
functions here leave unsharded values as they are; for sharded ones all devices call them together.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from metabox.training.optimizers import moments

if TYPE_CHECKING:  # at run time imported only if weights are sharded, for it takes a while
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard the parameters of a model; the function that Fabric's `ModelParallelStrategy` takes."""
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=mesh["data_parallel"], reshard_after_forward=True)
    return model


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Inside, every device has the full weights of the model, to read."""
    if not _is_sharded_module(model):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def full_tensors(value: Any) -> Any:
    """A tensor gathered from its shards; of dictionaries and lists, all tensors in them."""
    if isinstance(value, dict):
        return {name: full_tensors(part) for name, part in value.items()}
    if isinstance(value, list):
        return [full_tensors(part) for part in value]
    return value.full_tensor() if _is_sharded(value) else value


def local(value: Tensor) -> Tensor:
    """This device's shard of a tensor, or the tensor itself if it is not sharded; for writing without gradients."""
    return value.to_local() if _is_sharded(value) else value


def sharded_like(value: Tensor, like: Tensor) -> Tensor:
    """A full tensor sharded like another; each device takes its own shard."""
    if not _is_sharded(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_full_weights(modules: dict[str, nn.Module], tensors: dict[str, dict[str, Tensor]]) -> None:
    """Load full weights into modules that may be sharded.

    Raises:
        ValueError: if the dtype of a tensor is not that of the module's; nothing is loaded then.
        RuntimeError: if names or shapes differ.
    """
    for name, module in modules.items():
        for key, own in module.state_dict().items():
            if key in tensors[name] and tensors[name][key].dtype != own.dtype:
                raise ValueError(f"expected {name}.{key} as {own.dtype}, got {tensors[name][key].dtype}")
    for name, module in modules.items():
        own = module.state_dict()
        module.load_state_dict({k: sharded_like(v, own[k]) if k in own else v for k, v in tensors[name].items()})


def load_full_optimizer_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load the full state of an optimizer, whose parameters may be sharded.

    Fused kernels do not check their inputs, so every tensor is checked, and laid out like its parameter. The learning
    rate and the other settings stay those of the optimizer.

    Args:
        optimizer: to load into.
        tensors: by `NUMBER.NAME`, the parameter's number and one of the optimizer's `moments`.

    Raises:
        ValueError: if a tensor does not fit its parameter; nothing is loaded then.
    """
    groups = [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]
    parameters, kept = [p for p, _ in groups], [moments(optimizer, group) for _, group in groups]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        known = number.isdecimal() and int(number) < len(parameters)
        if not known or name not in kept[int(number)]:
            wanted_names = kept[int(number) if known else 0] or "no moments"
            raise ValueError(
                f"expected {wanted_names} of {len(parameters)} parameters in the optimizer's state, got {key}"
            )
        parameter = parameters[int(number)]
        wanted = (torch.float32, torch.Size()) if name == "step" else (parameter.dtype, parameter.shape)
        if (value.dtype, value.shape) != wanted:
            raise ValueError(
                f"expected {key} in the optimizer's state as {wanted[0]} {list(wanted[1])}, "
                f"got {value.dtype} {list(value.shape)}"
            )
        if name != "step":
            value = sharded_like(value, parameter) if _is_sharded(parameter) else _laid_out_like(value, parameter)
        state.setdefault(int(number), {})[name] = value
    if partial := [number for number, found in state.items() if len(found) < len(kept[number])]:
        raise ValueError(f"expected {kept[partial[0]]} of each parameter, got a part of them for {partial}")
    ordered = {number: {name: state[number][name] for name in kept[number]} for number in sorted(state)}
    optimizer.load_state_dict({"state": ordered, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_like(value: Tensor, parameter: Tensor) -> Tensor:
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def _is_sharded(value: Any) -> TypeGuard[DTensor]:
    tensor = sys.modules.get("torch.distributed.tensor")
    return tensor is not None and isinstance(value, tensor.DTensor)


def _is_sharded_module(model: nn.Module) -> TypeGuard[FSDPModule]:
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(model, fsdp.FSDPModule)
