"""A fast way to compute what a slow definition defines, with second derivatives from the definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

Outputs = tuple[Tensor, ...]


class FastPath(torch.autograd.Function):
    """Calls `fast` and differentiates it; a gradient that is to be differentiated again is that of `definition`.

    Both map the tensors of `inputs` to the same outputs, and read no other tensor that has a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, fast: Callable[..., Outputs], definition: Callable[..., Outputs], again: bool, *inputs: Tensor
    ) -> Outputs:
        device = inputs[0].device.type
        dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.autocast = partial(torch.autocast, device, dtype, enabled)
        ctx.fast, ctx.definition, ctx.needed = fast, definition, ctx.needs_input_grad[3:]
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        ctx.made = None
        if again:
            outputs = fast(*inputs)
        else:
            ctx.made = _inside(fast, inputs, ctx.needed)
            outputs = tuple(part.detach() for part in ctx.made[1])
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        twice = torch.is_grad_enabled()  # by create_graph
        with ctx.autocast():
            if twice:
                # As views, for inputs may depend on each other: the gradient of one must not flow on into another.
                inputs: Sequence[Tensor] = [part.view_as(part) for part in ctx.saved_tensors]
                outputs = ctx.definition(*inputs)
            else:
                inputs, outputs = ctx.made or _inside(ctx.fast, ctx.saved_tensors, ctx.needed)
        of = [
            (part, grad) for part, grad in zip(outputs, grads, strict=True) if grad is not None and part.requires_grad
        ]
        if not of:
            return None, None, None, *(None for _ in ctx.needed)
        wanted = [part for part, need in zip(inputs, ctx.needed, strict=True) if need]
        parts, given = zip(*of, strict=True)
        found = iter(
            torch.autograd.grad(parts, wanted, given, retain_graph=True, create_graph=twice, allow_unused=True)
        )
        return None, None, None, *(next(found) if need else None for need in ctx.needed)


def _inside(
    call: Callable[..., Outputs], inputs: Sequence[Tensor], needed: Sequence[bool]
) -> tuple[Sequence[Tensor], Outputs]:
    """The outputs of a call with a graph of their own, and its leaves, which are the inputs."""
    with torch.enable_grad():
        leaves = [part.detach().requires_grad_(need) for part, need in zip(inputs, needed, strict=True)]
        return leaves, call(*leaves)


class _Scan(nn.Module):
    """A learner's `scan` or `fast_scan` as the `forward` of a module, whose weights can be replaced."""

    def __init__(self, learner: Any) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, name: str, state: dict[str, Tensor], inputs: Tensor, real: Tensor) -> Any:
        return getattr(self.learner, name)(state, inputs, real)


def fast_path(
    learner: Any, state: dict[str, Tensor], inputs: Tensor, real: Tensor, again: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """`learner.fast_scan(state, inputs, real)`, with the second derivatives of `learner.scan`.

    `again` keeps nothing for the backward pass, which then computes everything again.
    """
    module, names = _Scan(learner), list(state)
    weights = dict(module.named_parameters())
    for name in [name for name in weights if name.startswith(("learner.embed.", "learner.readout."))]:
        del weights[name]

    def call(kind: str, *parts: Tensor) -> Outputs:
        now, (given, *own) = parts[: len(names)], parts[len(names) :]
        arguments = (kind, dict(zip(names, now, strict=True)), given, real)
        outputs, after = functional_call(module, dict(zip(weights, own, strict=True)), arguments)
        return outputs, *(after[name] for name in names)

    outputs, *after = FastPath.apply(
        lambda *parts: call("fast_scan", *parts),
        lambda *parts: call("scan", *parts),
        again,
        *state.values(),
        inputs,
        *weights.values(),
    )
    return outputs, dict(zip(names, after, strict=True))
