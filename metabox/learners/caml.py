"""CAML: a transformer over image features with fixed label codes. phi is the per-layer keys and values."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.method import Method
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.sets import class_mean, membership
from metabox.nn.transformer import Transformer, TransformerLayer
from metabox.ranges import Count
from metabox.targets import Classes, TaskSpec


class CAML(Learner):
    """Context-aware meta-learning (Fifty et al. 2024, "Context-Aware Meta-Learning").

    A token is the features of an image concatenated with a label code; the query has a learned code for "unknown". The
    codes of the C classes are an ELMES (equal length and maximally equiangular set): unit vectors with cosine
    -1 / (C - 1) between any two. A transformer that is not causal reads the tokens. The features are meant to come from
    a frozen, pre-trained backbone: `backbone: TorchVision` with `freeze: true`.

    Deviations: the support does not see the query, so that all queries are answered from one phi; in the paper a
    sequence holds one query, and all see all. The logit of a class is the product of its code with a linear map of the
    query's output, where the paper has a classifier of C outputs. Codes are assigned to classes not by class id but in
    the order of their mean features along one direction: an ELMES makes all classes alike only to a first layer, while
    this makes renaming the classes rename the predictions exactly. By default the backbone is trained too.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: features of an image in a token, and of a token.
        depth: transformer layers.
        heads: attention heads of a layer, a divisor of `width`.
    """

    method = Method(
        adapt=(
            ("embed, label code", r"t_n^0 = [\known_n, e_{y_n}], \quad e_c^\top e_{c'} = -\tfrac{1}{C - 1}"),
            ("self-attention", r"t_n^{l+1} = \net{layer}\big(t_n^l; t_{1:N}^l\big)"),
            ("keep keys and values", r"\task = \{K^l, V^l\}_l \cup \{e_c\}_c"),
        ),
        predict=(
            (
                "attend in each layer",
                r"t^{l+1} = \net{layer}\big(t^l; K^l, V^l\big), \quad K^l, V^l \in \task, \quad t^0 = [\known, "
                r"\mathrm{unknown}]",
            ),
            ("read against codes", r"p(y = c \mid x, \task) = \softmax_c\big(e_c^\top W t^L\big)"),
        ),
        cost=("N^2", "M (N + C)"),
        kin={"InContext": "the codes of classes are fixed vectors at equal angles; the backbone is meant to be frozen"},
        exports=False,
    )
    decayed = ()
    targets = (Classes,)
    label_equivariant = True
    elmes: Tensor

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 128,
        depth: Count = 3,
        heads: Count = 4,
    ) -> None:
        super().__init__(spec)
        self.embed = Embedding(spec, backbone)
        n = spec.target.size
        self.register_buffer("elmes", equiangular(n))
        self.unknown = nn.Parameter(torch.randn(n) / math.sqrt(n))
        self.token = nn.Linear(self.embed.out_features + n, width)
        layers = [TransformerLayer(width, heads, 4 * width, "gelu", sink=True) for _ in range(depth)]
        self.transformer = Transformer(layers, width)
        self.readout = nn.Linear(width, n)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `keys.i`, `values.i [T, heads, N, D/heads]` of layer i, `mask [T, N]`, `codes [T, C, C]` of the classes.

        And the task statistics.
        """
        h, phi = self.embed.adapt(support, descriptor)
        member = membership(support.y, support.mask, self.spec.target.size)
        codes = self.elmes[self._ranks(h, member)]
        phi |= {"mask": support.mask, "codes": codes}
        tokens = self.token(torch.cat([h, (member @ codes).to(h.dtype)], dim=-1))
        return phi | self.transformer.write(tokens, support.mask[:, None])

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        h = self.embed(x, phi)
        tokens = self.token(torch.cat([h, self.unknown.to(h.dtype).expand(*h.shape[:2], -1)], dim=-1))
        read: Tensor = self.readout(self.transformer.read(phi, tokens, phi["mask"][:, None]))
        with torch.autocast(read.device.type, enabled=False):
            return read.float() @ phi["codes"].float().transpose(1, 2)

    def _ranks(self, h: Tensor, member: Tensor) -> Tensor:
        """The rank of each class `[T, C]` by its mean feature along a fixed direction, absent classes last."""
        with torch.no_grad(), torch.autocast(h.device.type, enabled=False):
            along = torch.linspace(-1, 1, h.shape[-1], device=h.device)
            place = (class_mean(h.float(), member) * along).sum(-1)
            place = place.masked_fill(~member.any(1), math.inf)
            return place.argsort(dim=1, stable=True).argsort(dim=1)


def equiangular(n: int) -> Tensor:
    """n unit vectors of n numbers with cosine -1 / (n - 1) between any two: `[n, n]`.

    The corners of a simplex around 0: sqrt(n / (n - 1)) (I - 1/n).
    """
    return math.sqrt(n / max(1, n - 1)) * (torch.eye(n) - 1 / n) if n > 1 else torch.ones(1, 1)
