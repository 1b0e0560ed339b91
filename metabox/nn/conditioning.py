"""Conditioning: features meet a task code, whether it was given (a descriptor z_i) or inferred (from D_i^tr)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Conditioner(nn.Module, ABC):
    """Features h `[T, M, features]` and a code `[T, code]` to features `[T, M, out_features]`.

    Args:
        features: width of h.
        code: width of the task code.
    """

    def __init__(self, features: int, code: int) -> None:
        super().__init__()
        self.out_features = features

    @abstractmethod
    def forward(self, h: Tensor, code: Tensor) -> Tensor: ...


class Concat(Conditioner):
    """The code beside the features."""

    def __init__(self, features: int, code: int) -> None:
        super().__init__(features, code)
        self.out_features = features + code

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        return torch.cat([h, code.to(h.dtype)[:, None].expand(-1, h.shape[1], -1)], dim=-1)


class Add(Conditioner):
    """h + W code. Before a linear layer it can do what `Concat` can, and no more."""

    def __init__(self, features: int, code: int) -> None:
        super().__init__(features, code)
        self.shift = nn.Linear(code, features)

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        return h + self.shift(code)[:, None]


class Gate(Conditioner):
    """Multiplicative gating: h * (1 + W code), feature by feature."""

    def __init__(self, features: int, code: int) -> None:
        super().__init__(features, code)
        self.scale = nn.Linear(code, features)

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        return h * (1 + self.scale(code)[:, None])


class FiLM(Conditioner):
    """Feature-wise linear modulation (Perez et al. 2018): h * (1 + scale(code)) + shift(code)."""

    def __init__(self, features: int, code: int) -> None:
        super().__init__(features, code)
        self.scale_shift = nn.Linear(code, 2 * features)

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        scale, shift = self.scale_shift(code)[:, None].chunk(2, dim=-1)
        return h * (1 + scale) + shift
