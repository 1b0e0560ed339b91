"""The encoders of neural processes: pairs to codes, and to a distribution of a latent z."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metabox.nn.mlp import Perceptron
from metabox.nn.sets import class_mean, masked_mean
from metabox.nn.transformer import TransformerLayer


class PairEncoder(nn.Module):
    """Pairs (x_i, y_i) `[T, N, inputs]` to codes `[T, N, width]`: a perceptron, then self-attention within groups.

    Args:
        inputs: width of a pair.
        width: units of all layers.
        self_attention: number of self-attention layers.
        heads: attention heads of such a layer.
    """

    def __init__(self, inputs: int, width: int, self_attention: int = 0, heads: int = 8) -> None:
        super().__init__()
        self.perceptron = Perceptron(inputs, width, width, depth=4)
        self.layers = nn.ModuleList(TransformerLayer(width, heads, width) for _ in range(self_attention))

    def forward(self, pairs: Tensor, groups: Tensor) -> Tensor:
        """`groups [T, N, G]` is above 0 if a pair belongs to a group; pairs in one group see each other."""
        codes: Tensor = self.perceptron(pairs)
        visible = groups @ groups.transpose(1, 2) > 0
        for layer in self.layers:
            codes = layer(codes, *layer.keys_values(codes), visible)  # type: ignore[operator]
        return codes


class LatentEncoder(nn.Module):
    """Pairs to q(z | s) = N(mean, scale), scale = 0.1 + 0.9 sigmoid(.), as in the notebook of Kim et al. 2019.

    s is the mean of the codes s_i; one ReLU layer and one linear layer follow. If there are several groups (classes), s
    and the ReLU layer are computed for each, and their outputs averaged over the groups that have a pair.

    Args:
        inputs: width of a pair.
        width: units of the encoder.
        latent: size of z.
        self_attention: layers of the encoder's self-attention.
        heads: attention heads of such a layer.
    """

    def __init__(self, inputs: int, width: int, latent: int, self_attention: int = 0, heads: int = 8) -> None:
        super().__init__()
        self.encoder = PairEncoder(inputs, width, self_attention, heads)
        self.penultimate = nn.Linear(width, (width + latent) // 2)
        self.head = nn.Linear((width + latent) // 2, 2 * latent)

    def forward(self, pairs: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs `[T, N, inputs]`, groups `[T, N, G]` -> mean and scale, each `[T, latent]`."""
        s = torch.relu(self.penultimate(class_mean(self.encoder(pairs, groups), groups)))
        s = masked_mean(s, groups.any(1))
        with torch.autocast(s.device.type, enabled=False):  # bf16 is too coarse for a KL divergence
            mean, raw = self.head(s.to(self.head.weight.dtype)).chunk(2, dim=-1)
            return mean, 0.1 + 0.9 * raw.sigmoid()
