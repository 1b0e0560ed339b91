"""In-context transformer: the attention learner. phi is the per-layer keys and values of the support."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.method import Method
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.label_tokens import label_tokens
from metabox.nn.transformer import Transformer, TransformerLayer
from metabox.ranges import Count
from metabox.targets import TaskSpec


class InContext(Learner):
    """A transformer over (x, y) tokens; the support attends to the support, queries attend to the support only.

    The architecture is that of the in-context learners TNP-D (Nguyen & Grover 2022), GPICL (Kirsch et al. 2022) and
    CAML (Fifty et al. 2024): token_i = x_i + embed(y_i), and a learned null label in place of a query's y.

    Classes have no table of label embeddings, which keeps such learners at chance for long and ties them to one way.
    Instead the embedding of class c is inferred from the task: a linear map of the mean of its support features.
    Renaming the classes permutes the embeddings with them. A query starts from a first guess, attention by cosine over
    the support as in Matching networks (Vinyals et al. 2016, equation 1); its token carries the guessed label's
    embedding, and the transformer's correction is read out against the same class embeddings. Real and binary targets
    are embedded by a linear map and read out by another.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: features of a token.
        depth: transformer layers.
        heads: attention heads of a layer, a divisor of `width`.
    """

    method = Method(
        adapt=(
            ("embed", r"\known_n = \feat(x_n)"),
            ("codes of the classes", r"e_c = \frac{1}{|\of{c}|} \sum_{n \in \of{c}} W \known_n"),
            (
                "self-attention",
                r"t_n^{l+1} = \net{layer}\big(t_n^l; t_{1:N}^l\big), \quad t_n^0 = W_x \known_n + e_{y_n}",
            ),
            ("keep keys and values", r"\task = \{K^l, V^l\}_l \cup \{(\known_n, y_n)\}_n \cup \{e_c\}_c"),
        ),
        predict=(
            (
                "guess by cosine",
                r"\hat{e} = \sum_n a_n e_{y_n}, \quad a = \softmax_n\big(s \cos(\known, \known_n)\big), \quad "
                r"\known_n \in \task",
            ),
            (
                "attend in each layer",
                r"t^{l+1} = \net{layer}\big(t^l; K^l, V^l\big), \quad t^0 = W_x \known + \hat{e} + "
                r"\mathrm{null}",
            ),
            ("read against codes", r"p(y = c \mid x, \task) = \softmax_c\big(\log \hat{p}_c + e_c^\top t^L\big)"),
        ),
        cost=("N^2", "M (N + C)"),
        kin={
            "MatchingNet": "its prediction is the first guess, which a transformer corrects",
            "TNPD": "the code of a class is inferred from the task, so that renaming classes renames predictions",
        },
    )
    decayed = ()
    label_equivariant = True

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 128,
        depth: Count = 2,
        heads: Count = 4,
    ) -> None:
        super().__init__(spec)
        self.embed = Embedding(spec, backbone)
        self.embed_x = nn.Linear(self.embed.out_features, width)
        self.labels = label_tokens(spec.target, width)
        self.null_label = nn.Parameter(torch.zeros(width))
        layers = [TransformerLayer(width, heads, 4 * width, "gelu", sink=True) for _ in range(depth)]
        self.transformer = Transformer(layers, width)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `keys.i`, `values.i [T, heads, N, D/heads]` of layer i, `mask [T, N]`; the task statistics.

        And what `self.labels` keeps, for classes `features [T, N, D]`, `member [T, N, C]`, `codes [T, C, D]`.
        """
        features, phi = self.embed.adapt(support, descriptor)
        tokens, known = self.labels.support(self.embed_x(features), support)
        written = self.transformer.write(tokens, support.mask[:, None])
        return phi | known | written | {"mask": support.mask}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        tokens, guess = self.labels.query(self.embed_x(self.embed(x, phi)), phi)
        read = self.transformer.read(phi, tokens + self.null_label, phi["mask"][:, None])
        return self.labels.read(read, guess, phi)
