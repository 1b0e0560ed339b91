"""A fast way to compute what a slow definition defines, with second derivatives from the definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    def forward(ctx: Any, fast: Callable[..., Outputs], definition: Callable[..., Outputs], *inputs: Tensor) -> Outputs:
        ctx.definition = definition
        ctx.save_for_backward(*inputs)
        with torch.enable_grad():
            needed = ctx.needs_input_grad[2:]
            ctx.inner = [part.detach().requires_grad_(need) for part, need in zip(inputs, needed, strict=True)]
            ctx.outputs = fast(*ctx.inner)
        ctx.set_materialize_grads(False)
        constant = [part.detach() for part in ctx.outputs]
        ctx.mark_non_differentiable(
            *(part for part, made in zip(constant, ctx.outputs, strict=True) if not made.requires_grad)
        )
        return tuple(constant)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        twice = torch.is_grad_enabled()  # by create_graph
        # As views, for inputs may depend on each other: the gradient of one must not flow on into another.
        inputs: Sequence[Tensor] = [part.view_as(part) for part in ctx.saved_tensors] if twice else ctx.inner
        outputs = ctx.definition(*inputs) if twice else ctx.outputs
        of = [(part, grad) for part, grad in zip(outputs, grads, strict=True) if grad is not None]
        wanted = [part for part, need in zip(inputs, ctx.needs_input_grad[2:], strict=True) if need]
        found = iter(
            torch.autograd.grad(
                [part for part, _ in of],
                wanted,
                [grad for _, grad in of],
                retain_graph=True,
                create_graph=twice,
                allow_unused=True,
            )
        )
        return None, None, *(next(found) if need else None for need in ctx.needs_input_grad[2:])


class _Scan(nn.Module):
    """A learner's `scan` or `fast_scan` as the `forward` of a module, whose weights can be replaced."""

    def __init__(self, learner: Any) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, name: str, state: dict[str, Tensor], inputs: Tensor, real: Tensor) -> Any:
        return getattr(self.learner, name)(state, inputs, real)


def fast_path(learner: Any, state: dict[str, Tensor], inputs: Tensor, real: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """`learner.fast_scan(state, inputs, real)`, with the second derivatives of `learner.scan`."""
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
        *state.values(),
        inputs,
        *weights.values(),
    )
    return outputs, dict(zip(names, after, strict=True))
