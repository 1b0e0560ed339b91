"""Conditional neural process: the set learner. phi is a pooled code of the support."""

from __future__ import annotations

from torch import Tensor

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.method import Method
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.mlp import Perceptron
from metabox.nn.pairing import pairing
from metabox.nn.sets import class_mean
from metabox.ranges import Count
from metabox.targets import TaskSpec


class CNP(Learner):
    """Conditional neural process (Garnelo et al. 2018, "Conditional Neural Processes").

    r_i = h(x_i, y_i); r = mean_i r_i; predictions = g(x, r) (equations 1 to 3). For classes, as in section 4.3,
    the code is pooled within each class.

    Deviations: for classes the paper concatenates the class codes, which fixes the way. Here one decoder scores each
    class from its code and the mean of all codes, so any way works and renaming the classes renames the predictions.
    The image encoder is batch-normalised and not pre-trained.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: units of the encoder's and decoder's hidden layers and of the code r.
    """

    method = Method(
        adapt=(
            ("encode each pair", r"r_n = \net{MLP}_h(\known_n, y_n)"),
            (
                "mean",
                r"\task = \frac{1}{N} \sum_{n=1}^N r_n, \quad \text{for classes } \task = "
                r"\Big\{\frac{1}{|\of{c}|} \sum_{n \in \of{c}} r_n\Big\}",
            ),
        ),
        predict=(("concatenate, decode", r"p(y \mid x, \task) = p\big(y; \net{MLP}_g(\known, \task)\big)"),),
        cost=("N", "M C"),
    )
    label_equivariant = True

    def __init__(self, spec: TaskSpec, *, backbone: MakeBackbone | None = None, width: Count = 128) -> None:
        super().__init__(spec)
        self.embed = Embedding(spec, backbone)
        self.pairing = pair = pairing(spec.target)
        features = self.embed.out_features
        self.encoder = Perceptron(features + pair.label_size, width, width)
        self.decoder = Perceptron(features + pair.codes * width, width, pair.outputs, bias=pair.bias)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `codes [T, G, R]`, for classes one each, and last that of the whole support; the task statistics."""
        h, phi = self.embed.adapt(support, descriptor)
        r = self.encoder(self.pairing.pairs(h, support))
        return phi | {"codes": class_mean(r, self.pairing.readable(support))}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        return self.pairing.score(self.decoder, self.embed(x, phi), phi["codes"][:, None])
