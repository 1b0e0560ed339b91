"""A transformer block whose keys and values can be kept: the support is read once, queries any time after."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AttentionBlock(nn.Module):
    """Pre-norm attention and feed-forward (Vaswani et al. 2017; Xiong et al. 2020) over given keys and values.

    One learned key and value is always visible, so that attention over nothing is defined.

    Args:
        width: features of a token.
        heads: attention heads, a divisor of `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"expected heads to divide the width, got {heads} heads for width {width}")
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.nothing = nn.Parameter(torch.randn(2, heads, 1, width // heads) * 0.02)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What tokens `[T, N, D]` offer to be attended to: two of `[T, heads, N, D/heads]`."""
        key, value = self.key_value(self.norm(tokens)).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Tokens `[T, M, D]` attend to keys and values `[T, heads, N, D/heads]` where mask `[T, N]` is True."""
        t = tokens.shape[0]
        key, value = (
            torch.cat([some, own.to(some.dtype).expand(t, -1, -1, -1)], dim=2)
            for some, own in zip((keys, values), self.nothing, strict=True)
        )
        visible = F.pad(mask, (0, 1), value=True)[:, None, None, :]
        seen = F.scaled_dot_product_attention(self._split(self.query(self.norm(tokens))), key, value, attn_mask=visible)
        tokens = tokens + self.out(seen.transpose(1, 2).flatten(2))
        return tokens + self.feed_forward(tokens)

    def _split(self, tokens: Tensor) -> Tensor:
        t, n, width = tokens.shape
        return tokens.view(t, n, self.heads, width // self.heads).transpose(1, 2)
