"""Prototypical network: each class is represented by the mean of its examples. phi is those means."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from metabox.learners.base import Phi
from metabox.learners.method import Method
from metabox.learners.metric import MetricLearner
from metabox.nn.backbones import MakeBackbone
from metabox.nn.metric import cosines, exact, squared_distances
from metabox.nn.sets import class_mean
from metabox.targets import TaskSpec

Distance = Literal["euclidean", "cosine"]


class ProtoNet(MetricLearner):
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

    method = Method(
        adapt=(
            ("embed", r"\known_n = \feat(x_n)"),
            (
                "mean of each class",
                r"\task = \{\mu_c\}_{c=1}^C, \quad \mu_c = \frac{1}{|\of{c}|} \sum_{n \in \of{c}} \known_n",
            ),
        ),
        predict=(
            (
                "compare by distance",
                r"p(y = c \mid x, \task) = \softmax_c\big(-\lVert \known - \mu_c \rVert^2\big), \quad \mu_c "
                r"\in \task",
            ),
        ),
        cost=("N", "M C"),
        kin={"MatchingNet": "one mean for each class is compared, by distance, in place of every example, by cosine"},
    )

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        distance: Distance = "euclidean",
    ) -> None:
        super().__init__(spec, backbone)
        self.distance = distance

    def represent(self, h: Tensor, member: Tensor, mask: Tensor) -> Phi:
        """`prototypes [T, C, D]` and `counts [T, C]` of their examples."""
        with torch.autocast(h.device.type, enabled=False):
            return {"prototypes": class_mean(exact(h), member), "counts": member.sum(1)}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        h, prototypes = self.embed(x, phi), phi["prototypes"]
        far = squared_distances(h, prototypes) if self.distance == "euclidean" else 1 - cosines(h, prototypes)
        seen = phi["counts"][:, None] > 0
        farthest = far.masked_fill(~seen, -math.inf).amax(-1, keepdim=True).clamp(min=0)  # 0 if no class is seen
        return -torch.where(seen, far, farthest)
