"""Prototypical network: each class is represented by the mean of its examples. phi is those means."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.nn.backbones import MakeBackbone
from metabox.nn.conditioning import Gate
from metabox.nn.embedding import Embedding
from metabox.nn.metric import cosines, exact, squared_distances
from metabox.nn.sets import class_mean, membership
from metabox.targets import Classes, TaskSpec

Distance = Literal["euclidean", "cosine"]


class ProtoNet(Learner):
    """Prototypical network (Snell et al. 2017, "Prototypical Networks for Few-shot Learning").

    The prototype c_k of class k is the mean of its embedded support (equation 1); the logit of class k is
    -d(f(x), c_k) (equation 2). With the squared Euclidean distance this is a linear classifier with weights 2 c_k
    and biases `-|c_k|^2` (equation 8).

    Deviations: none if every class of a task has support. A class without any is as far away as the farthest prototype,
    and without support all classes are equal. A descriptor gates the features (`Gate`), since a shift would cancel in
    the distances; the paper has none in its few-shot part.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        distance: "euclidean", which is squared, or "cosine", which is 1 - cos (section 2.6 of the paper).
    """

    targets = (Classes,)
    label_equivariant = True

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        distance: Distance = "euclidean",
    ) -> None:
        super().__init__(spec)
        self.embed = Embedding(spec, backbone, condition=Gate)
        self.distance = distance

    @property
    def most_classes(self) -> None:
        """No limit: no weight belongs to a class."""

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `prototypes [T, C, D]`, `counts [T, C]` of their examples, and the task statistics."""
        assert classes is not None  # as targets are classes
        h, phi = self.embed.adapt(support, descriptor)
        member = membership(support.y, support.mask, classes.shape[1])
        with torch.autocast(h.device.type, enabled=False):
            phi |= {"prototypes": class_mean(exact(h), member), "counts": member.sum(1)}
        return phi

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        h, prototypes = self.embed(x, phi), phi["prototypes"]
        far = squared_distances(h, prototypes) if self.distance == "euclidean" else 1 - cosines(h, prototypes)
        seen = phi["counts"][:, None] > 0
        farthest = far.masked_fill(~seen, -math.inf).amax(-1, keepdim=True).clamp(min=0)  # 0 if no class is seen
        return -torch.where(seen, far, farthest)
