"""What the learners share that compare a query with the support by a distance of features."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.nn.backbones import MakeBackbone
from metabox.nn.conditioning import Gate
from metabox.nn.embedding import Embedding
from metabox.nn.sets import membership
from metabox.targets import Classes, TaskSpec


class MetricLearner(Learner):
    """The base of learners that compare a query with the support of each class: for classes, and any number of them.

    A descriptor gates the features (`Gate`), since a shift would cancel in a distance.
    """

    targets = (Classes,)
    label_equivariant = True

    def __init__(self, spec: TaskSpec, backbone: MakeBackbone | None) -> None:
        super().__init__(spec)
        self.embed = Embedding(spec, backbone, condition=Gate)

    @property
    def most_classes(self) -> None:
        """No limit: no weight belongs to a class."""

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: what `represent` returns, and the task statistics."""
        assert classes is not None  # as targets are classes
        h, statistics = self.embed.adapt(support, descriptor)
        return statistics | self.represent(h, membership(support.y, support.mask, classes.shape[1]), support.mask)

    @abstractmethod
    def represent(self, h: Tensor, member: Tensor, mask: Tensor) -> Phi:
        """What stands for the support: features h `[T, N, D]`, member `[T, N, C]` (none for padding), mask `[T, N]`."""
