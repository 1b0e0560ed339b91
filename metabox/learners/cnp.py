"""Conditional neural process: the set learner. phi is a pooled code of the support."""

from __future__ import annotations

import torch
from torch import Tensor

from metabox.episodes import Examples, TaskSpec
from metabox.learners.base import Learner, Phi
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.mlp import Perceptron
from metabox.nn.sets import class_mean, masked_mean, membership


class CNP(Learner):
    """Conditional neural process (Garnelo et al. 2018, "Conditional Neural Processes").

    r_i = h(x_i, y_i); r = mean_i r_i; predictions = g(x, r) (equations 1 to 3). For classes, as in section 4.3,
    the code is pooled within each class.

    Deviations: for classes the paper concatenates the class codes, which fixes the way. Here the same
    decoder scores each class from its own code and the mean of all codes, so any way works and renaming
    the classes renames the predictions. The image encoder is batch-normalised and not pre-trained.

    Args:
        spec: the tasks.
        n_params: natural parameters per query point.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: units of the encoder's and decoder's hidden layers and of the code r.
    """

    label_equivariant = True

    def __init__(
        self, spec: TaskSpec, n_params: int, *, backbone: MakeBackbone | None = None, width: int = 128
    ) -> None:
        super().__init__(spec, n_params)
        self.embed = Embedding(spec, backbone)
        features = self.embed.out_features
        label_size = 0 if spec.target == "class" else spec.target_size  # a class enters by pooling, not as a vector
        self.encoder = Perceptron(features + label_size, width, width)
        codes = 2 * width if spec.target == "class" else width
        outputs = 1 if spec.target == "class" else n_params
        # A bias on the score of every class alike would be without effect.
        self.decoder = Perceptron(features + codes, width, outputs, bias=spec.target != "class")

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `code [T, R]`, for classes also `class_codes [T, C, R]`; and what the embedding knows of the task."""
        h, phi = self.embed.adapt(support, descriptor)
        if self.spec.target != "class":
            h = torch.cat([h, support.y.to(h.dtype)], dim=-1)
        r = self.encoder(h)
        phi["code"] = masked_mean(r, support.mask)
        if self.spec.target == "class":
            phi["class_codes"] = class_mean(r, membership(support.y, support.mask, self.spec.target_size))
        return phi

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        h, code = self.embed(x, phi), phi["code"][:, None]
        if self.spec.target != "class":
            return self.decoder(h, code)
        # Score every (query, class) pair: [T, M, C, ...]
        return self.decoder(h[:, :, None], phi["class_codes"][:, None], code[:, None]).squeeze(-1)
