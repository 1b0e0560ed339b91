"""Attentive conditional neural process: every query reads the support by attention, and there is no latent."""

from __future__ import annotations

from torch import Tensor

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.method import Method
from metabox.nn.attention import AttentionKind, CrossAttention
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.latent import PairEncoder
from metabox.nn.mlp import Perceptron
from metabox.nn.pairing import pairing
from metabox.ranges import Count, Natural
from metabox.targets import TaskSpec


class ACNP(Learner):
    """The deterministic path of the attentive neural process (Kim et al. 2019, section 3), by itself.

    r_i = h(x_i, y_i), the code that a query x reads is attention with the query x, keys x_i and values r_i, and
    predictions = g(x, code). Nguyen & Grover 2022 ("Transformer Neural Processes") compare with it as CANP.

    Deviations: those of `ANP`, except for its latent z.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: units of the hidden layers, of keys and queries, and of the codes.
        attention: the kind of cross-attention; "uniform" is the mean, as in `CNP`.
        self_attention: number of self-attention layers in the encoder.
        heads: heads of multihead attention, a divisor of `width`.
    """

    method = Method(
        adapt=(
            ("encode each pair", r"r_n = \net{MLP}_h(\known_n, y_n)"),
            ("self-attention", r"r \leftarrow r + \attend(r; r, r)"),
            ("keep keys and values", r"\task = \{(k_n, r_n)\}_{n=1}^N, \quad k_n = \net{MLP}_k(\known_n)"),
        ),
        predict=(
            ("attend", r"r(x) = \attend\big(\net{MLP}_k(\known); k, r\big), \quad (k, r) \in \task"),
            ("decode", r"p(y \mid x, \task) = p\big(y; \net{MLP}_g(\known, r(x))\big)"),
        ),
        cost=("N^2", "M N"),
        kin={"CNP": "each query reads a code of its own, by attention, in place of the mean"},
    )
    label_equivariant = True

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 128,
        attention: AttentionKind = "multihead",
        self_attention: Natural = 0,
        heads: Count = 8,
    ) -> None:
        super().__init__(spec)
        self.embed = Embedding(spec, backbone)
        self.pairing = pair = pairing(spec.target)
        features = self.embed.out_features
        self.encoder = PairEncoder(features + pair.label_size, width, self_attention, heads)
        self.attention = CrossAttention(attention, features, width, heads)
        self.decoder = Perceptron(features + pair.codes * width, width, pair.outputs, bias=pair.bias)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `keys [T, N, D]`, `values [T, N, R]`, `groups [T, N, 1 or C + 1]`; the task statistics."""
        h, phi = self.embed.adapt(support, descriptor)
        values = self.encoder(self.pairing.pairs(h, support), self.pairing.groups(support))
        return phi | {"keys": h, "values": values, "groups": self.pairing.readable(support)}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        h = self.embed(x, phi)
        codes = self.attention(h, phi["keys"], phi["values"], phi["groups"]).to(h.dtype)  # [T, M, G, R]
        return self.pairing.score(self.decoder, h, codes)
