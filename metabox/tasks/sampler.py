"""Where tasks come from: `EpisodeSampler`, which every task distribution is a subclass of."""

from __future__ import annotations

from abc import ABC, abstractmethod

from metabox.config import Configured, identity
from metabox.episodes import Device, Episodes, Split
from metabox.targets import TaskSpec


class EpisodeSampler(Configured, ABC):
    """p(T): where tasks come from."""

    data_arguments = ("path", "data_root", "on_device")
    spec: TaskSpec

    @abstractmethod
    def sample(
        self, index: int, n_tasks: int, *, split: Split, device: Device = "cpu", seed: int = 0, first: int = 0
    ) -> Episodes:
        """The tasks `first ... first + n_tasks - 1` of the endless list at (seed, split, index).

        A pure function of its arguments: the same ones give the same bits, on every device. An
        outer loop passes its step as `index` and `rank * n_tasks` as `first`, so ranks share one
        list and never overlap; an evaluation stays at index 0 and walks along `first`.
        """

    def identity(self) -> dict[str, object]:
        """What the tasks depend on, and so what a resumed run compares: the record of the arguments, and the data."""
        return {"data": self.fingerprint(), **identity(self.config)}

    def fingerprint(self) -> str:
        """Names the data behind the tasks, so that two results can be seen to stand on the same."""
        return f"{type(self).__name__} (generated)"
