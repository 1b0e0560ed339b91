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
        momenta = [self._momentum(parameter).lerp(gradient, 1 - MOMENTUM) for parameter, gradient, _ in moved]
        ahead = [gradient.lerp(momentum, MOMENTUM) for (_, gradient, _), momentum in zip(moved, momenta, strict=True)]
        for (parameter, _, group), momentum, way in zip(moved, momenta, directions(ahead), strict=True):
            new = parameter * (1 - group["lr"] * group["weight_decay"]) - way * group["lr"]
            for held, value in ((self._momentum(parameter), momentum), (parameter, new)):
                held.copy_(value if bad is None else torch.where(bad > 0, held, value))
            parameter.grad = None  # so that AdamW leaves it alone
        super().step()
        for parameter, gradient, _ in moved:
            parameter.grad = gradient
        return loss

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum_buffer"]
        return momentum


def directions(momenta: list[Tensor]) -> list[Tensor]:
    """The steps of matrices and kernels at learning rate 1; those of one shape at once, since most are small."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, momentum in enumerate(momenta):
        alike.setdefault(tuple(momentum.flatten(1).shape), []).append(i)
    steps = list(momenta)
    for shape, members in alike.items():
        found = orthogonal(torch.stack([momenta[i].flatten(1) for i in members]))
        for i, one in zip(members, found, strict=True):
            steps[i] = (0.2 * math.sqrt(max(shape)) * one).view(momenta[i].shape)
    return steps


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly U V^T of matrices U S V^T, `[K, A, B]`, by Newton-Schulz iterations.

    Singular values become about 0.7 to 1.2. In bf16 on CUDA; in float32 elsewhere, since a processor without products
    in bf16 takes many times as long for them.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
