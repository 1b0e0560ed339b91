"""Attentive neural process: every query reads the support by attention. phi is its inputs, codes and groups."""

from __future__ import annotations

from torch import Tensor

from metabox.learners.base import Phi
from metabox.learners.method import Method
from metabox.learners.neural_process import NeuralProcess
from metabox.nn.attention import AttentionKind, CrossAttention
from metabox.nn.backbones import MakeBackbone
from metabox.ranges import Count, Natural
from metabox.targets import TaskSpec


class ANP(NeuralProcess):
    """Attentive neural process (Kim et al. 2019, "Attentive Neural Processes", section 3).

    As `NP`, but r is read by cross-attention with the query's x as the query, the x_i as keys and the r_i as values,
    and self-attention layers follow the perceptron in both encoders (figure 2). Train it with `LatentLoss`, the bound
    of its equation 3. The kinds of attention and the sizes are those of the authors' published notebook
    (github.com/google-deepmind/neural-processes), which leaves out self-attention: `self_attention: 0`.

    Deviations: those of `NP`. The self-attention layers are those of Vaswani et al. 2017, with feed-forward layers as
    wide as the rest. For classes the support of each class is a separate context set: self-attention stays within the
    class, and a query reads one code from each class and one from the whole support; from these two the decoder scores
    the class. An empty set reads as zeros.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: units of the hidden layers, of keys and queries, and of the codes.
        latent: size of z.
        attention: the kind of cross-attention; "uniform" is the mean, as in `NP`.
        self_attention: number of self-attention layers in each encoder.
        heads: heads of multihead attention, a divisor of `width`.
        n_samples: samples of z in a prediction.
    """

    method = Method(
        adapt=(
            ("encode each pair", r"r_n = \net{MLP}_h(\known_n, y_n), \quad s_n = \net{MLP}_{h'}(\known_n, y_n)"),
            ("self-attention", r"r \leftarrow r + \attend(r; r, r), \quad s \leftarrow s + \attend(s; s, s)"),
            (
                "keys, values, latent",
                r"\task = \{(k_n, r_n)\}_{n=1}^N \cup \{q\}, \quad q(\ell) = \mathcal{N}\big(\mu(\bar s), "
                r"\sigma(\bar s)\big)",
            ),
        ),
        predict=(
            ("attend", r"r(x) = \attend\big(k(\known); k, r\big), \quad (k, r) \in \task"),
            (
                "draw, decode, mix",
                r"p(y \mid x, \task) = \frac{1}{L} \sum_{l=1}^L p\big(y; \net{MLP}_g(\known, r(x), "
                r"\ell^{(l)})\big), \quad \ell^{(l)} \sim q",
            ),
        ),
        cost=("N^2", "M N"),
        kin={"NP": "r is read by attention in place of the mean", "ACNP": "a latent variable beside the attention"},
    )

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 128,
        latent: Count = 128,
        attention: AttentionKind = "multihead",
        self_attention: Natural = 0,
        heads: Count = 8,
        n_samples: Count = 16,
    ) -> None:
        super().__init__(
            spec,
            backbone=backbone,
            width=width,
            latent=latent,
            n_samples=n_samples,
            self_attention=self_attention,
            heads=heads,
        )
        self.attention = CrossAttention(attention, self.embed.out_features, width, heads)

    def remember(self, r: Tensor, h: Tensor, groups: Tensor) -> Phi:
        """`keys [T, N, D]`, `values [T, N, R]`, `groups [T, N, G]`."""
        return {"keys": h, "values": r, "groups": groups}

    def code(self, phi: Phi, h: Tensor) -> Tensor:
        code: Tensor = self.attention(h, phi["keys"], phi["values"], phi["groups"])
        return code
