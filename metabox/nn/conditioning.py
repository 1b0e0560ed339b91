"""Conditioning of features on a task code, given (a descriptor z_i) or inferred (from D_i^tr)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from metabox.config import Configured
from metabox.nn.towers import Stack
from metabox.ranges import Count


class Conditioner(nn.Module, Configured, ABC):
    """Features h `[T, M, features]` and a code `[T, code]` to features `[T, M, out_features]`.

    Args:
        features: width of h.
        code: width of the task code.
    """

    def __init__(self, features: Count, code: Count) -> None:
        super().__init__()
        self.out_features = features

    @abstractmethod
    def forward(self, h: Tensor, code: Tensor) -> Tensor: ...


class Concat(Conditioner):
    """Concatenate the code to the features."""

    def __init__(self, features: Count, code: Count) -> None:
        super().__init__(features, code)
        self.out_features = features + code

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        return torch.cat([h, code.to(h.dtype)[:, None].expand(-1, h.shape[1], -1)], dim=-1)


class Add(Conditioner):
    """h + W code. Before a linear layer it is as expressive as `Concat`, if that layer has no more outputs than inputs.

    To the outputs of a wider layer, `Concat` can add a vector that no h gives.
    """

    def __init__(self, features: Count, code: Count) -> None:
        super().__init__(features, code)
        self.shift = nn.Linear(code, features)

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        shift: Tensor = self.shift(code)
        return h + shift[:, None]


class Gate(Conditioner):
    """Multiplicative gating: h * (1 + W code), feature by feature.

    On the concatenated features of K networks it contains K independent networks, and before a linear layer, on K
    copies of shared features, K independent heads: with a one-hot code it can switch off all but one block of h.
    """

    def __init__(self, features: Count, code: Count) -> None:
        super().__init__(features, code)
        self.scale = nn.Linear(code, features)

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        scale: Tensor = self.scale(code)
        return h * (1 + scale[:, None])


class FiLM(Conditioner):
    """Feature-wise linear modulation (Perez et al. 2018): h * (1 + scale(code)) + shift(code)."""

    def __init__(self, features: Count, code: Count) -> None:
        super().__init__(features, code)
        self.scale_shift = nn.Linear(code, 2 * features)

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        both: Tensor = self.scale_shift(code)
        scale, shift = both[:, None].chunk(2, dim=-1)
        return h * (1 + scale) + shift


class Heads(Conditioner):
    """A linear layer per task, selected by a one-hot code and mixed by a soft one: sum_k z_k (W_k h + b_k).

    Args:
        features: width of h.
        code: K, the number of tasks.
        out_features: outputs of each layer; by default as many as features.
    """

    def __init__(self, features: Count, code: Count, out_features: Count | None = None) -> None:
        super().__init__(features, code)
        self.out_features = out_features or features
        self.layers = Stack(code, features, self.out_features, of_tasks=True)

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        out: Tensor = self.layers(h, code)
        return out


class BackboneFiLM(nn.Module):
    """FiLM for every layer of a backbone that can be modulated: a code `[T, code]` to the `task` of `Backbone.adapt`.

    The result holds `film.NAME [T, 2, channels]` for each layer: a scale (minus 1) and a shift, linear in the code.

    Args:
        sizes: the layers, name to channels, as `Backbone.film_sizes` gives them.
        code: width of the task code.

    Raises:
        ValueError: if there is no such layer.
    """

    def __init__(self, sizes: dict[str, int], code: int) -> None:
        super().__init__()
        if not sizes:
            raise ValueError(
                "expected a backbone with normalisation layers to modulate, got one without; use Conv4, or another way "
                "for the code to enter"
            )
        self.sizes = sizes
        self.linear = nn.Linear(code, 2 * sum(sizes.values()))

    def forward(self, code: Tensor) -> dict[str, Tensor]:
        films = self.linear(code).split([2 * channels for channels in self.sizes.values()], dim=-1)
        return {f"film.{name}": film.unflatten(-1, (2, -1)) for name, film in zip(self.sizes, films, strict=True)}
