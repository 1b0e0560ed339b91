"""Scaled dot-product attention, and the cross-attention of neural processes."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.checks import checked
from metabox.nn.mlp import Perceptron
from metabox.nn.sets import class_mean
from metabox.ranges import Count

LANES = 16
"""Keys that the fused kernel of a CPU takes at once; those that are left over it takes one by one."""


def dot_product_attention(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """torch's fused attention; on a CPU in float32 at least, since the kernel's backward pass is slow in bf16.

    There, if at least half of the last `LANES` are keys, hidden ones fill them, which takes less time, not more. Not in
    compiled code, which would be made anew for each number of keys.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
    if not torch.compiler.is_compiling() and 0 < (lacking := -key.shape[2] % LANES) <= LANES // 2:
        key, value = (F.pad(part, (0, 0, 0, lacking)) for part in (key, value))
        visible = F.pad(visible.expand(*visible.shape[:3], key.shape[2] - lacking), (0, lacking))
    with torch.autocast("cpu", enabled=False):
        q, k, v = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible).to(query.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Scaled dot-product attention; zero for a query with no visible key.

    query `[T, heads, M, D]`, key and value `[T, heads, N, D]`, visible: bool, broadcast to `[T, heads, M, N]`.
    """
    # A softmax over nothing would be NaN: a query without visible keys sees all, and its result is zeroed.
    nothing = ~visible.any(-1, keepdim=True)
    return dot_product_attention(query, key, value, visible | nothing).masked_fill(nothing, 0.0)


AttentionKind = Literal["uniform", "laplace", "dot", "multihead"]


class CrossAttention(nn.Module):
    """Attention of queries to keys (Kim et al. 2019, section 3), within each of several groups.

    Keys and queries pass through one perceptron first. "uniform": the mean of the values. "laplace": weights
    proportional to `exp(-|q - k|_1)`. "dot": to exp(q.k / sqrt(D)). "multihead": dot-product attention between linear
    maps of queries, keys and values, in `heads` heads, and a linear map of the result.

    Args:
        kind: one of the four.
        features: width of the inputs that queries and keys are computed from.
        width: of keys, queries and values.
        heads: attention heads, a divisor of `width`; only for "multihead".
    """

    @checked
    def __init__(self, kind: AttentionKind, features: Count, width: Count, heads: Count = 8) -> None:
        super().__init__()
        self.kind = kind
        self.heads = check_heads(heads, width) if kind == "multihead" else 1
        if kind != "uniform":
            # A last bias cancels in the difference of a query and a key.
            self.represent = Perceptron(features, width, width, depth=2, bias=kind != "laplace")
        make = partial(nn.Linear, width, width, bias=False) if kind == "multihead" else nn.Identity
        self.query, self.key, self.value, self.out = make(), make(), make(), make()

    def forward(self, x: Tensor, support: Tensor, values: Tensor, groups: Tensor) -> Tensor:
        """Inputs `[T, M, F]` and `[T, N, F]`, values `[T, N, R]`, groups `[T, N, G]` -> `[T, M, G, R]`.

        An empty group gives zeros.
        """
        m, g = x.shape[1], groups.shape[2]
        if self.kind == "uniform":
            return class_mean(values, groups)[:, None].expand(-1, m, -1, -1)
        query, key = self.represent(x), self.represent(support)
        visible = groups.transpose(1, 2)[:, None] > 0  # [T, 1, G, N]
        if self.kind == "laplace":
            with torch.autocast(x.device.type, enabled=False):  # bf16 would blur the distances
                precise = torch.promote_types(query.dtype, torch.float32)
                likeness = -torch.cdist(query.to(precise), key.to(precise), p=1.0)[:, :, None]
                weights = likeness.masked_fill(~visible, torch.finfo(likeness.dtype).min).softmax(-1) * visible
                return weights @ values.to(weights.dtype)[:, None]
        query, key, values = (
            split_heads(map_(part), self.heads)
            for map_, part in ((self.query, query), (self.key, key), (self.value, values))
        )
        # Repeat each query for each group.
        query, visible = query[:, :, :, None].expand(-1, -1, -1, g, -1), visible.expand(-1, m if g > 1 else 1, -1, -1)
        seen = attend(query.flatten(2, 3), key, values, visible.flatten(1, 2)[:, None])
        out: Tensor = self.out(seen.transpose(1, 2).flatten(2)).unflatten(1, (m, g))
        return out


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """`[T, N, D]` -> `[T, heads, N, D/heads]`."""
    t, n, width = tokens.shape
    return tokens.view(t, n, heads, width // heads).transpose(1, 2)


def check_heads(heads: int, width: int, of: str = "the width") -> int:
    if width % heads:
        raise ValueError(f"expected heads as a divisor of {of}, {width}, got {heads}")
    return heads
