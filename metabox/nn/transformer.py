"""A transformer with stored keys and values: the support is read once, queries at any later time."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from metabox.nn.attention import attend, check_heads, dot_product_attention, split_heads
from metabox.nn.mlp import Perceptron


class TransformerLayer(nn.Module):
    """`torch.nn.TransformerEncoderLayer(norm_first=True)` without dropout, over given keys and values.

    Attention without visible keys gives zero; with `sink` a learned key and value is always visible.

    Args:
        width: features of a token.
        heads: attention heads, a divisor of `width`.
        feed_forward: hidden units of the feed-forward part.
        activation: of the feed-forward part, "relu" or "gelu".
        sink: whether to add a learned key and value to those of the tokens.
        key_heads: heads of keys and values, a divisor of `heads`, each of which several heads of queries share (Ainslie
            et al. 2023, "GQA"); None for `heads`.
        scaled: whether likenesses are multiplied by a learned number of each head times the log of the number of
            visible keys, so that attention does not flatten as they become more (Nakanishi 2025, "Scalable-Softmax").

    Raises:
        ValueError: if the heads do not divide the width, or those of keys the heads.
    """

    decayed = ()

    def __init__(
        self,
        width: int,
        heads: int,
        feed_forward: int,
        activation: str = "relu",
        sink: bool = False,
        key_heads: int | None = None,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        self.heads = check_heads(heads, width)
        self.key_heads = key_heads or heads
        if heads % self.key_heads:
            raise ValueError(f"expected key_heads as a divisor of heads, {heads}, got {self.key_heads}")
        size = width // heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * size * self.key_heads)
        self.out = nn.Linear(width, width)
        self.sink = nn.Parameter(torch.randn(2, self.key_heads, 1, size) * 0.02) if sink else None
        # At first as plain attention over 150 keys.
        self.per_log = nn.Parameter(torch.full((heads, 1, 1), 1 / math.log(150))) if scaled else None
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.feed_forward: nn.Sequential = Perceptron(width, feed_forward, width, depth=2)
        if activation == "gelu":
            self.feed_forward = nn.Sequential(nn.Linear(width, feed_forward), nn.GELU(), nn.Linear(feed_forward, width))

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of tokens `[T, N, D]`: two of `[T, key_heads, N, D/heads]`."""
        key, value = self.key_value(self.norms[0](tokens)).chunk(2, dim=-1)
        return split_heads(key, self.key_heads), split_heads(value, self.key_heads)

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """Tokens `[T, M, D]` attend to keys and values `[T, key_heads, N, D/heads]` if `visible [T, 1 or M, N]`."""
        query = split_heads(self.query(self.norms[0](tokens)), self.heads)
        visible = visible[:, None]
        if self.per_log is not None:
            n = visible.sum(-1, keepdim=True) + (self.sink is not None)
            query = query * self.per_log * n.clamp(min=2).log()
        if (sharing := self.heads // self.key_heads) > 1:  # heads that share keys as more queries of one head
            query = query.reshape(len(query), self.key_heads, sharing * query.shape[2], query.shape[3])
            visible = visible if visible.shape[2] == 1 else visible.repeat(1, 1, sharing, 1)
        if self.sink is None:
            seen = attend(query, keys, values, visible)
        else:
            keys, values = (
                torch.cat([part, own.to(part.dtype).expand(len(part), -1, -1, -1)], dim=2)
                for part, own in zip((keys, values), self.sink, strict=True)
            )
            seen = dot_product_attention(query, keys, values, F.pad(visible, (0, 1), value=True))
        seen = seen.reshape(len(seen), self.heads, tokens.shape[1], seen.shape[3])
        tokens = tokens + self.out(seen.transpose(1, 2).flatten(2))
        transformed: Tensor = self.feed_forward(self.norms[1](tokens))
        return tokens + transformed


class Transformer(nn.Module):
    """Layers that write the keys and values of some tokens for others to read, and a final norm.

    The keys and values are a part of phi: `keys.i`, `values.i [T, key_heads, N, D/heads]` of layer i.

    Args:
        layers: the layers, all of the same width.
        width: features of a token.
    """

    def __init__(self, layers: list[TransformerLayer], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)

    def write(self, tokens: Tensor, visible: Tensor, held: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The keys and values of tokens `[T, N, D]`, appended to those `held` already.

        Each token sees the keys that are `visible [T, 1 or N, held + N]`.
        """
        return self._write(tokens, visible, held, to_the_end=False)[0]

    def write_and_read(self, tokens: Tensor, visible: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The same with none held, and the tokens after the last layer `[T, N, D]`."""
        return self._write(tokens, visible, None, to_the_end=True)

    def read(self, phi: dict[str, Tensor], tokens: Tensor, visible: Tensor, itself: bool = False) -> Tensor:
        """Tokens `[T, M, D]` after the last layer; each sees the keys in phi that are `visible [T, 1 or M, N]`.

        With `itself`, each also sees itself, but no other token.
        """
        if itself:
            t, m = tokens.shape[:2]
            own = torch.eye(m, dtype=torch.bool, device=tokens.device).expand(t, -1, -1)
            visible = torch.cat([visible.expand(-1, m, -1), own], dim=-1)
        for i, layer in enumerate(self.layers):
            keys, values = phi[f"keys.{i}"], phi[f"values.{i}"]
            if itself:
                own_keys, own_values = layer.keys_values(tokens)  # type: ignore[operator]  # a ModuleList has no item type
                keys, values = torch.cat([keys, own_keys], dim=2), torch.cat([values, own_values], dim=2)
            tokens = layer(tokens, keys, values, visible)
        normed: Tensor = self.norm(tokens)
        return normed

    def _write(
        self, tokens: Tensor, visible: Tensor, held: dict[str, Tensor] | None, to_the_end: bool
    ) -> tuple[dict[str, Tensor], Tensor]:
        written = {}
        for i, layer in enumerate(self.layers):
            for name, new in zip((f"keys.{i}", f"values.{i}"), layer.keys_values(tokens), strict=True):  # type: ignore[operator]
                written[name] = torch.cat([held[name], new], dim=2) if held else new
            if to_the_end or i + 1 < len(self.layers):  # else the last layer's tokens are not used
                tokens = layer(tokens, written[f"keys.{i}"], written[f"values.{i}"], visible)
        return written, self.norm(tokens) if to_the_end else tokens


def recompute(model: nn.Module) -> None:
    """Make each transformer layer in the model keep only its inputs, and recompute the rest in the backward pass.

    Gradient checkpointing (Chen et al. 2016): the memory of a long support shrinks to little more than keys and values,
    for about a third more time. Results do not change.
    """
    for module in model.modules():
        if isinstance(module, TransformerLayer):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]
