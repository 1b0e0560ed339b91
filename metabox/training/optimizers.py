"""The optimizer of a run, and its state for each parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from metabox.training.settings import OuterLoop


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
    make = Adam if outer.optimizer == "adam" else AdamW
    made = make(groups, eps=outer.epsilon, fused=True, capturable=graphs and first.is_cuda)
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


def moments(optimizer: Optimizer) -> tuple[str, ...]:
    """The names of the state that an optimizer of `make_optimizer` keeps for each parameter that has had a gradient.

    Each is a tensor like its parameter, except `step`, one float32 number.
    """
    if isinstance(optimizer, Adam):  # AdamW is one
        return ("step", "exp_avg", "exp_avg_sq")
    momentum = ("momentum_buffer",) if optimizer.defaults["momentum"] else ()
    return ("step", "square_avg", *momentum) if isinstance(optimizer, RMSprop) else momentum
