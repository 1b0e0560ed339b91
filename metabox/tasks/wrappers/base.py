"""What task distributions that are made from another one share."""

from __future__ import annotations

from abc import abstractmethod

from metabox.data.preprocessing import Preprocessing
from metabox.episodes import Device, Episodes, Split
from metabox.targets import TaskSpec
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler


class Wrapper(EpisodeSampler):
    """The tasks of another sampler, changed: what a subclass does not override is the other's.

    Args:
        tasks: the other sampler.
    """

    def __init__(self, tasks: EpisodeSampler) -> None:
        self.tasks = tasks

    @property
    def spec(self) -> TaskSpec:  # type: ignore[override]  # the inner sampler opens its data when first asked
        return self.tasks.spec

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """The inner sampler's tasks at the place, changed; see `EpisodeSampler.sample`."""
        return self.change(self.tasks.sample(place, device), place)

    @abstractmethod
    def change(self, episodes: Episodes, place: Place) -> Episodes:
        """The tasks that stand at the place, changed: a function of the two alone, on the device of the episodes."""

    @property
    def preprocessing(self) -> Preprocessing | None:  # type: ignore[override]  # as above
        return self.tasks.preprocessing

    def class_names(self) -> dict[Split, list[str]]:
        return self.tasks.class_names()

    def fingerprint(self) -> str:
        return self.tasks.fingerprint()
