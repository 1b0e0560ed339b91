"""Labels that mean the same in some of the training tasks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from metabox.episodes import Episodes
from metabox.ranges import Share
from metabox.targets import TaskSpec
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.base import Wrapper


class FixedLabels(Wrapper):
    """The tasks of another sampler; in a share of the training tasks labels are not random.

    In these, the classes of a task are numbered in the order of the ids of their examples in the data. So a class has
    the same label in many tasks, the more so the fewer classes there are, and something can be learned without the
    support. This biases the training distribution as Kirsch et al. 2022 ("General-purpose in-context learning")
    propose, whose tasks all have the same ten classes: it shortens the plateau before a learner reads the labels of
    the support. Validation and test tasks are unchanged.

    Args:
        tasks: a sampler of classes whose episodes have `origin`.
        share: the share of training tasks with ordered labels, from 0 to 1, drawn independently for each task.

    Raises:
        ValueError: if the share is outside [0, 1]; in `sample`, if the targets are not classes or episodes have no
            `origin`.
    """

    def __init__(self, tasks: EpisodeSampler, share: Share = 0.5) -> None:
        super().__init__(tasks)
        self.share = share

    def change(self, episodes: Episodes, place: Place) -> Episodes:
        if place.split != "train":
            return episodes
        fixed = torch.from_numpy(place.draws("fixed labels").uniform("fixed", 0, 1, 1) < self.share)
        fixed = fixed.to(episodes.support.x.device)
        return in_order(episodes, self.tasks.spec, fixed)


def in_order(episodes: Episodes, spec: TaskSpec, chosen: Tensor) -> Episodes:
    """Number the classes of the tasks `chosen [T, 1]` in the order of their examples' ids.

    Raises:
        ValueError: if there are no classes, or no ids.
    """
    if spec.target.n_classes is None or episodes.origin is None:
        has = f"targets {spec.target!r}" if spec.target.n_classes is None else "no origin"
        raise ValueError(f"expected tasks of classes that tell the origin of their examples, got {has}; see Episodes")
    s, q = episodes.support, episodes.query
    y, mask = torch.cat([s.y, q.y], dim=1), torch.cat([s.mask, q.mask], dim=1)
    last = torch.iinfo(torch.int64).max
    smallest = episodes.origin.new_full((len(y), spec.target.size), last)
    smallest.scatter_reduce_(1, y.masked_fill(~mask, 0), episodes.origin.masked_fill(~mask, last), "amin")
    label = smallest.argsort(dim=1, stable=True).argsort(dim=1)  # the rank of each class
    renamed = torch.where(chosen & mask, label.gather(1, y.masked_fill(~mask, 0)), y).split(
        [s.y.shape[1], q.y.shape[1]], 1
    )
    return replace(episodes, support=replace(s, y=renamed[0]), query=replace(q, y=renamed[1]))
