"""The moving average of the weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """An exponential moving average of a module's parameters and buffers, in a copy of it.

    Update n (from 0) keeps a share min(decay, (1 + n) / (10 + n)) of the average, and the first update none of it:
    the average is short early in training, or it would keep the random initial weights for long. Integers are copied.

    Args:
        module: what is averaged.
        decay: share of the average that an update keeps, for example 0.999.
    """

    n: Tensor

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.module, self.decay = deepcopy(module), decay
        device = next(module.parameters()).device
        self.register_buffer("n", torch.zeros((), dtype=torch.float64, device=device))

    @torch.no_grad()
    def update(self, module: nn.Module, good: Tensor) -> None:
        """Move towards the module; does nothing if `good []` is False. Never waits for the device."""
        pairs = list(zip(_tensors(self.module), _tensors(module), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        left = ((1 + self.n) / (10 + self.n)).clamp(max=self.decay).where(self.n > 0, 0)
        weight = (1 - left).where(good, 0).float()  # from float64: rounded once
        averages, values = zip(*floats, strict=True)
        torch._foreach_lerp_(averages, values, [weight] * len(averages))
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)
        self.n += good


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
