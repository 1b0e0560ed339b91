"""Attentive conditional neural process: every query reads the support by attention, and there is no latent."""

from __future__ import annotations

import torch
from torch import Tensor

from metabox.episodes import Examples, TaskSpec
from metabox.learners.base import Learner, Phi
from metabox.nn.attention import AttentionKind, CrossAttention
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.latent import PairEncoder
from metabox.nn.mlp import Perceptron
from metabox.nn.sets import membership


class ACNP(Learner):
    """The deterministic path of the attentive neural process (Kim et al. 2019, section 3), by itself.

    r_i = h(x_i, y_i), the code that a query x reads is attention with the query x, keys x_i and values r_i, and
    predictions = g(x, code). Nguyen & Grover 2022 ("Transformer Neural Processes") compare with it as CANP.

    Deviations: those of `ANP` that are not about its latent z.

    Args:
        spec: the tasks.
        n_params: natural parameters per query point.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: units of the hidden layers, of keys and queries, and of the codes.
        attention: the form of the cross-attention; "uniform" is the mean, as in `CNP`.
        self_attention: number of self-attention layers in the encoder.
        heads: heads of multihead attention, a divisor of `width`.
    """

    label_equivariant = True

    def __init__(
        self,
        spec: TaskSpec,
        n_params: int,
        *,
        backbone: MakeBackbone | None = None,
        width: int = 128,
        attention: AttentionKind = "multihead",
        self_attention: int = 0,
        heads: int = 8,
    ) -> None:
        super().__init__(spec, n_params)
        self.embed = Embedding(spec, backbone)
        features, by_class = self.embed.out_features, spec.target == "class"
        # A class enters by grouping, not as a vector.
        self.encoder = PairEncoder(features + (0 if by_class else spec.target_size), width, self_attention, heads)
        self.attention = CrossAttention(attention, features, width, heads)
        inputs, outputs = features + (2 if by_class else 1) * width, 1 if by_class else n_params
        self.decoder = Perceptron(inputs, width, outputs, bias=not by_class)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `keys [T, N, D]`, `values [T, N, R]`, `groups [T, N, 1 or C + 1]`; what the embedding knows."""
        h, phi = self.embed.adapt(support, descriptor)
        groups = everything = support.mask[..., None].float()
        pairs = h
        if self.spec.target == "class":
            classes = membership(support.y, support.mask, self.spec.target_size)
            groups, everything = classes, torch.cat([classes, everything], dim=-1)
        else:
            pairs = torch.cat([h, support.y.to(h.dtype)], dim=-1)
        return phi | {"keys": h, "values": self.encoder(pairs, groups), "groups": everything}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        h = self.embed(x, phi)
        code = self.attention(h, phi["keys"], phi["values"], phi["groups"]).to(h.dtype)  # [T, M, G, R]
        if self.spec.target != "class":
            return self.decoder(h, code[:, :, 0])
        # Score every (query, class) pair: [T, M, C, ...]
        return self.decoder(h[:, :, None], code[:, :, :-1], code[:, :, -1:]).squeeze(-1)
