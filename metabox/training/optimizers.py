"""The optimizer of a run, and its state for each parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from metabox.checks import shown
from metabox.training.muon import Muon
from metabox.training.settings import OuterLoop

MAPS: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)
"""torch's modules with weights that multiply their inputs; `weight` is in the names of those, and of no others."""


def decayed(module: nn.Module) -> list[str]:
    """The names of a module's own parameters that weight decay pulls towards 0.

    A module says so in its class attribute `decayed`, a tuple of names. Of torch's modules, those of `MAPS` have such
    parameters. All others keep what they learn: biases, gains of normalisation, embeddings, scales, temperatures.

    Raises:
        ValueError: if `decayed` names anything but parameters.
    """
    own = [name for name, _ in module.named_parameters(recurse=False)]
    named = getattr(module, "decayed", None)
    if named is None:
        return [name for name in own if "weight" in name] if isinstance(module, MAPS) else []
    if not isinstance(named, tuple) or not set(named) <= set(module._parameters):  # which holds absent ones as None
        raise ValueError(
            f"expected decayed of {type(module).__name__} as a tuple of names of its own parameters, among "
            f"{tuple(module._parameters)}, got {shown(named)}"
        )
    return [name for name in own if name in named]


def parameter_groups(module: nn.Module, muon: bool = False) -> list[dict[str, Any]]:
    """The parameters of a module and its parts, without weight decay in a last group if they are not `decayed`.

    A parameter that several modules share decays if all of them say so. With `muon`, those that decay and are matrices
    or kernels of a convolution come first, in a group of their own (see `Muon`).
    """
    kept = {
        id(parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if name not in decayed(part)
    }
    kernels = {id(part.weight) for part in module.modules() if isinstance(part, nn.modules.conv._ConvNd)}
    parameters = list(module.parameters())
    decaying = [parameter for parameter in parameters if id(parameter) not in kept]
    matrices = [parameter for parameter in decaying if muon and (parameter.ndim == 2 or id(parameter) in kernels)]
    taken = set(map(id, matrices))
    groups: list[dict[str, Any]] = [
        {"params": matrices, "matrices": True},
        {"params": [parameter for parameter in decaying if id(parameter) not in taken]},
        {"params": [parameter for parameter in parameters if id(parameter) in kept], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(outer: OuterLoop, groups: list[dict[str, Any]]) -> Optimizer:
    """The torch optimizer that `outer` names, for groups of parameters that may override its settings.

    If its steps are to be captured as graphs, the learning rate is a tensor: see `set_lr`.
    """
    first, graphs = groups[0]["params"][0], outer.compile == "graphs"
    # The fused kernels of CUDA read a float32.
    dtype = torch.float32 if first.is_cuda else torch.float64
    groups = [{"lr": outer.lr, "weight_decay": outer.weight_decay, **group} for group in groups]
    for group in groups if graphs else ():
        group["lr"] = torch.full((), group["lr"], dtype=dtype, device=first.device)
    if outer.optimizer == "rmsprop":
        return RMSprop(
            groups,
            alpha=outer.smoothing,
            eps=outer.epsilon,
            momentum=outer.momentum,
            foreach=True,
            capturable=first.is_cuda,  # keeps the step count on the device of the other moments
        )
    if outer.optimizer == "sgd":
        return _sgd(outer, groups, fused=graphs and first.is_cuda)
    make = {"adam": Adam, "adamw": AdamW, "muon": Muon}[outer.optimizer]
    made: Adam = make(groups, eps=outer.epsilon, fused=True, capturable=graphs and first.is_cuda)
    made._warned_capturable_if_run_uncaptured = True  # its first steps are not captured, as they should be
    return made


def _sgd(outer: OuterLoop, groups: list[dict[str, Any]], fused: bool) -> SGD:
    """Not fused but for graphs, where only the fused one takes the learning rate as a tensor.

    Fused SGD takes neither sharded weights nor parameters whose first gradient comes late, and a bad first step would
    leave its momentum undefined; so that begins at zero.
    """
    if not fused:
        return SGD(groups, momentum=outer.momentum, foreach=True)
    optimizer = SGD(groups, momentum=outer.momentum, fused=True)
    for parameter in (p for group in groups for p in group["params"] if outer.momentum):
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate; if it is a tensor, in its memory, where a captured step reads it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def moments(optimizer: Optimizer, group: dict[str, Any]) -> tuple[str, ...]:
    """The names of the state that an optimizer of `make_optimizer` keeps for each parameter of one of its groups.

    It has them once there has been a gradient. Each is a tensor like its parameter, except `step`, one float32 number.
    """
    if group.get("matrices"):
        return ("momentum_buffer",)
    if isinstance(optimizer, Adam):  # AdamW is one
        return ("step", "exp_avg", "exp_avg_sq")
    momentum = ("momentum_buffer",) if optimizer.defaults["momentum"] else ()
    return ("step", "square_avg", *momentum) if isinstance(optimizer, RMSprop) else momentum
