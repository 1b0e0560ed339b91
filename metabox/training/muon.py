"""Muon: steps of the same length in all directions of a weight matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

MOMENTUM = 0.95
COEFFICIENTS = 3.4445, -4.7750, 2.0315
ITERATIONS = 5


class Muon(AdamW):
    """Muon (Jordan et al. 2024) for groups with `matrices`, and AdamW for the others.

    A matrix moves along its momentum (Nesterov's), whose singular values are all brought near 1. The step is
    lengthened by 0.2 times the root of the longer side, to the length of a usual step of Adam (Liu et al. 2025, "Muon
    is scalable for LLM training"), so that one learning rate serves all groups. It is `torch.optim.Muon` with
    `adjust_lr_fn="match_rms_adamw"`, which takes matrices only: the kernel of a convolution is here the matrix of its
    outputs by all of its inputs, as in Jordan's code.

    Args:
        groups: parameter groups; `matrices` says whether a group is of matrices, or of kernels `[outputs, ...]`. As the
            fused kernels do, they skip a step while the attribute `found_inf` is not 0.
        options: of AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        super().__init__([{"matrices": False, **group} for group in groups], **options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        Optimizer.__setstate__(self, state)  # AdamW's own looks for its moments in every parameter

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # no overloads
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        bad = getattr(self, "found_inf", None)
        groups = [group for group in self.param_groups if group["matrices"]]
        moved = [(p, p.grad, group) for group in groups for p in group["params"] if p.grad is not None]
        for parameter, gradient, group in moved:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momentum = state["momentum_buffer"].lerp(gradient, 1 - MOMENTUM)
            shrunk = parameter * (1 - group["lr"] * group["weight_decay"])
            new = shrunk - direction(gradient.lerp(momentum, MOMENTUM)) * group["lr"]
            for held, value in ((state["momentum_buffer"], momentum), (parameter, new)):
                held.copy_(value if bad is None else torch.where(bad > 0, held, value))
            parameter.grad = None  # so that AdamW leaves it alone
        super().step()
        for parameter, gradient, _ in moved:
            parameter.grad = gradient
        return loss


def direction(momentum: Tensor) -> Tensor:
    """The step of a matrix or kernel at learning rate 1."""
    matrix = momentum.flatten(1)
    return (0.2 * math.sqrt(max(matrix.shape)) * orthogonal(matrix)).view(momentum.shape)


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly U V^T of a matrix U S V^T, by Newton-Schulz iterations in bf16: singular values of about 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
