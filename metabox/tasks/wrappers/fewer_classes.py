"""Tasks whose number of classes grows in training."""

from __future__ import annotations

from copy import copy

from metabox.episodes import Device, Episodes
from metabox.tasks.nway import NWayKShot
from metabox.tasks.place import Place
from metabox.tasks.wrappers.base import Wrapper
from metabox.tasks.wrappers.curriculum import Growth


class FewerClasses(Wrapper):
    """The tasks of an N-way sampler, in training with few classes first and more later.

    After the curriculum of Santoro et al. 2016 ("Meta-learning with memory-augmented neural networks"), in which the
    number of classes grows. At training step i tasks have `ways.at(i)` classes, up to those of `tasks`, with as many
    images of each as there; step i is the index of the `Place`, so a resumed run continues where it was. Validation and
    test have all classes from the start.

    Args:
        tasks: N-way tasks of one number of classes.
        ways: the number of classes.

    Raises:
        ValueError: if n_way has a range, or if the growth starts above it.
    """

    tasks: NWayKShot

    def __init__(self, tasks: NWayKShot, ways: Growth) -> None:
        super().__init__(tasks)
        self.ways = ways
        low, high = tasks.n_way
        if low != high or ways.start > high:
            raise ValueError(
                f"expected tasks of one n_way and ways that start from 1 to it, got n_way {tasks.n_way} and {ways}"
            )
        self._fewer: dict[int, NWayKShot] = {}

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """The tasks of the step `place.index`; see `EpisodeSampler.sample`."""
        tasks = self.at(place.index) if place.split == "train" else self.tasks
        return self.change(tasks.sample(place, device), place)

    def change(self, episodes: Episodes, place: Place) -> Episodes:
        return episodes

    def at(self, step: int) -> NWayKShot:
        """The tasks of a training step."""
        way = self.ways.at(step, self.tasks.n_way[1])
        if way == self.tasks.n_way[1]:
            return self.tasks
        if way not in self._fewer:
            _ = self.tasks.images  # opened once
            fewer = copy(self.tasks)
            fewer.n_way = (way, way)
            self._fewer[way] = fewer
        return self._fewer[way]
