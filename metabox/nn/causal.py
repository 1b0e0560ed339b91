"""Causal blocks whose past can be kept: a sequence is read once, then queried at any position.

Each block has two functions. `remember` maps the inputs `[T, N, D]` of a sequence to the block's past, which is what
later positions need. `forward` maps inputs and a past to outputs; a position sees earlier ones and itself.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Past = dict[str, Tensor]


class DenseBlock(nn.Module):
    """A gated causal convolution, concatenated with its input (Mishra et al. 2018, figure 2; section 3.1, DenseBlock).

    x_f, x_g = causal convolutions of kernel 2 and the given dilation; out = [x, tanh(x_f) * sigmoid(x_g)]. Position p
    sees x_p and x_{p - dilation}, zeros before the first.

    Args:
        inputs: D.
        dilation: distance to the earlier position.
        filters: number of features to add.
    """

    def __init__(self, inputs: int, dilation: int, filters: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.out_features = inputs + filters
        # Both taps in one layer, the earlier one first; x_f and x_g in one product.
        self.taps = nn.Linear(2 * inputs, 2 * filters)

    def remember(self, x: Tensor) -> Past:
        """`echo [T, N + 1, 2 * filters]`: the earlier tap at positions 0 ... N."""
        n, d = x.shape[1:]
        earlier = F.pad(x, (0, 0, self.dilation, 0))[:, : n + 1]
        return {"echo": F.linear(earlier, self.taps.weight[:, :d], self.taps.bias)}

    def forward(self, x: Tensor, past: Past, visible: Tensor) -> Tensor:
        """x `[T, M, D]` at positions 0 ... M - 1, or all at the single position of `echo [T, 1, ...]`."""
        echo = past["echo"][:, : x.shape[1]]
        f, g = (echo + F.linear(x, self.taps.weight[:, x.shape[2] :])).chunk(2, dim=-1)
        return torch.cat([x, f.tanh() * g.sigmoid()], dim=-1)


class CausalAttention(nn.Module):
    """One head of attention, concatenated with its input (the AttentionBlock of Mishra et al. 2018, section 3.1).

    out = [x, softmax over keys of (query . key / sqrt(K)) values], over the earlier positions and its own.

    Args:
        inputs: D.
        key_size: K.
        value_size: number of features to add.
    """

    def __init__(self, inputs: int, key_size: int, value_size: int) -> None:
        super().__init__()
        self.out_features = inputs + value_size
        self.query = nn.Linear(inputs, key_size)
        self.key = nn.Linear(inputs, key_size, bias=False)  # a bias would add the same to all logits of a query
        self.value = nn.Linear(inputs, value_size)

    def remember(self, x: Tensor) -> Past:
        """`keys [T, N, K]` and `values [T, N, V]`."""
        return {"keys": self.key(x), "values": self.value(x)}

    def forward(self, x: Tensor, past: Past, visible: Tensor) -> Tensor:
        """x `[T, M, D]` sees itself, and past positions for which `visible [T or 1, M or 1, N]` is True."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        # Each query has its own key beside the shared ones, so this is not attention over one list of keys.
        logits = torch.cat([query @ past["keys"].transpose(1, 2), (query * key).sum(-1, keepdim=True)], dim=-1)
        logits = logits.masked_fill(~F.pad(visible, (0, 1), value=True), -math.inf)
        weights = (logits / math.sqrt(key.shape[-1])).softmax(-1)
        seen = weights[..., :-1].to(value.dtype) @ past["values"] + weights[..., -1:].to(value.dtype) * value
        return torch.cat([x, seen], dim=-1)


def real_first(mask: Tensor) -> Tensor:
    """The order `[T, N, 1]` that puts padding last, where no real example or query can see it."""
    return (~mask).byte().argsort(dim=1, stable=True)[..., None]
