"""The base class of task distributions made from another one."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from metabox.data.preprocessing import Preprocessing
from metabox.episodes import Device, Episodes, Split
from metabox.targets import TaskSpec
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler


class Wrapper(EpisodeSampler):
    """The tasks of another sampler, changed; all else is taken from that sampler.

    Args:
        tasks: the other sampler.
    """

    def __init__(self, tasks: EpisodeSampler) -> None:
        self.tasks = tasks

    @property
    def spec(self) -> TaskSpec:  # type: ignore[override]  # the inner sampler opens its data at the first use
        return self.tasks.spec

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """The inner sampler's tasks at the place, changed; see `EpisodeSampler.sample`."""
        return self.change(self.tasks.sample(place, device), place)

    @abstractmethod
    def change(self, episodes: Episodes, place: Place) -> Episodes:
        """The changed tasks at the place: a pure function of both, on the device of the episodes."""

    @property
    def preprocessing(self) -> Preprocessing | None:  # type: ignore[override]  # as above
        return self.tasks.preprocessing

    def trained_tasks(self) -> tuple[Tensor | None, Tensor] | None:
        return self.tasks.trained_tasks()

    def class_names(self) -> dict[Split, list[str]]:
        return self.tasks.class_names()

    def fingerprint(self) -> str:
        return self.tasks.fingerprint()
