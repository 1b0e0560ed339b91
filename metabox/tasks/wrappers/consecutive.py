"""Several tasks in a row as one sequence, without a new start between them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from metabox.episodes import Device, Episodes, Examples
from metabox.ranges import Count
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.base import Wrapper


class Consecutive(Wrapper):
    """Sequences of several tasks of another sampler: what a learner holds is not wiped between them.

    As in the test of persistent memory interference of Santoro et al. 2016 ("Meta-learning with memory-augmented neural
    networks"). The support is all of the first tasks, and the support of the last one; the query is that of the last
    one. So `StreamLoss` is over all of them, and `truncate` of a recurrent learner may cut the gradient where a task
    ends. The label set is that of all tasks together.

    A label has another meaning in each task. The k-th instance of a class, in `accuracy_instance_k`, is counted by
    labels: draw them from many `names`, so that hardly any comes twice.

    Args:
        tasks: any sampler without descriptors.
        n: tasks in a row.

    Raises:
        ValueError: in `sample`, if the tasks have descriptors, or names.
    """

    def __init__(self, tasks: EpisodeSampler, n: Count = 2) -> None:
        super().__init__(tasks)
        self.n = n

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """The tasks `n * first ...` of the inner sampler, n to a row; see `EpisodeSampler.sample`."""
        every = replace(place, n_tasks=self.n * place.n_tasks, first=self.n * place.first)
        return self.change(self.tasks.sample(every, device), place)

    def change(self, episodes: Episodes, place: Place) -> Episodes:
        if episodes.descriptor is not None or episodes.task is not None:
            raise ValueError("expected tasks without descriptors and names for Consecutive, got some that have them")
        s, q = episodes.support, episodes.query
        last = q.mask.shape[1]

        def in_a_row(values: Tensor) -> Tensor:
            return values.reshape(-1, self.n * values.shape[1], *values.shape[2:])

        whole = Examples(
            **{name: in_a_row(torch.cat([getattr(s, name), getattr(q, name)], dim=1)) for name in ("x", "y", "mask")}
        )
        n = whole.mask.shape[1] - last
        return Episodes(
            support=whole[:, :n],
            query=whole[:, n:],
            classes=None if episodes.classes is None else episodes.classes.unflatten(0, (-1, self.n)).any(1),
            oracle=None if episodes.oracle is None else episodes.oracle[self.n - 1 :: self.n],
            origin=None if episodes.origin is None else in_a_row(episodes.origin),
        )
