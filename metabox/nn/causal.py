"""Causal blocks whose past can be kept: a sequence is read once, and asked at any of its positions.

Each block has two functions. `remember` takes the inputs `[T, N, D]` of a sequence to what its later positions need
of them, the block's past. `forward` takes inputs and a past to outputs; a position sees what is before it, and itself.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Past = dict[str, Tensor]


class DenseBlock(nn.Module):
    """A gated causal convolution beside its input (Mishra et al. 2018, figure 2 and the DenseBlock of section 3.1).

    x_f, x_g = causal convolutions of kernel 2 and the given dilation; out = [x, tanh(x_f) * sigmoid(x_g)]. Position p
    hears x_p and x_{p - dilation}, zeros before the first.

    Args:
        inputs: D.
        dilation: how far back it listens.
        filters: features that it adds.
    """

    def __init__(self, inputs: int, dilation: int, filters: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.out_features = inputs + filters
        # The two taps side by side, the earlier one first; x_f and x_g in one product.
        self.taps = nn.Linear(2 * inputs, 2 * filters)

    def remember(self, x: Tensor) -> Past:
        """`echo [T, N + 1, 2 * filters]`: what the positions 0 ... N hear of the one `dilation` before them."""
        n, d = x.shape[1:]
        earlier = F.pad(x, (0, 0, self.dilation, 0))[:, : n + 1]
        return {"echo": F.linear(earlier, self.taps.weight[:, :d], self.taps.bias)}

    def forward(self, x: Tensor, past: Past, visible: Tensor) -> Tensor:
        """x `[T, M, D]` at the positions 0 ... M - 1, or all at the one position that `echo [T, 1, ...]` is kept of."""
        echo = past["echo"][:, : x.shape[1]]
        f, g = (echo + F.linear(x, self.taps.weight[:, x.shape[2] :])).chunk(2, dim=-1)
        return torch.cat([x, f.tanh() * g.sigmoid()], dim=-1)


class CausalAttention(nn.Module):
    """One head of attention beside its input (the AttentionBlock of Mishra et al. 2018, section 3.1).

    out = [x, softmax over keys of (query . key / sqrt(K)) values], over the positions before and the own one.

    Args:
        inputs: D.
        key_size: K.
        value_size: features that it adds.
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
        """x `[T, M, D]` sees itself, and of the past where `visible [T or 1, M or 1, N]` is True."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        # Each has a key of its own beside the shared ones, so this is no plain attention over one list of keys.
        logits = torch.cat([query @ past["keys"].transpose(1, 2), (query * key).sum(-1, keepdim=True)], dim=-1)
        logits = logits.masked_fill(~F.pad(visible, (0, 1), value=True), -math.inf)
        weights = (logits / math.sqrt(key.shape[-1])).softmax(-1)
        seen = weights[..., :-1].to(value.dtype) @ past["values"] + weights[..., -1:].to(value.dtype) * value
        return torch.cat([x, seen], dim=-1)


def real_first(mask: Tensor) -> Tensor:
    """The order `[T, N, 1]` that puts padding last: there it is behind all that a query or a real example can see."""
    return (~mask).byte().argsort(dim=1, stable=True)[..., None]
