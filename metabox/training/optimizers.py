"""The optimizer of a run, and its state for each parameter."""

from __future__ import annotations

from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from metabox.training.settings import OuterLoop


def make_optimizer(outer: OuterLoop, groups: list[dict[str, Any]]) -> Optimizer:
    """The torch optimizer that `outer` names, for groups of parameters that may override its settings."""
    groups = [{"lr": outer.lr, "weight_decay": outer.weight_decay, **group} for group in groups]
    if outer.optimizer == "rmsprop":
        return RMSprop(
            groups,
            alpha=outer.smoothing,
            eps=outer.epsilon,
            momentum=outer.momentum,
            foreach=True,
            capturable=groups[0]["params"][0].is_cuda,  # keeps the step count on the device of the other moments
        )
    if outer.optimizer == "sgd":
        # Not fused: fused SGD takes neither sharded weights nor parameters whose first gradient comes late.
        return SGD(groups, momentum=outer.momentum, foreach=True)
    return (Adam if outer.optimizer == "adam" else AdamW)(groups, eps=outer.epsilon, fused=True)


def moments(optimizer: Optimizer) -> tuple[str, ...]:
    """The names of the state that an optimizer of `make_optimizer` keeps for each parameter that has had a gradient.

    Each is a tensor like its parameter, except `step`, one float32 number.
    """
    if isinstance(optimizer, Adam):  # AdamW is one
        return ("step", "exp_avg", "exp_avg_sq")
    momentum = ("momentum_buffer",) if optimizer.defaults["momentum"] else ()
    return ("step", "square_avg", *momentum) if isinstance(optimizer, RMSprop) else momentum
