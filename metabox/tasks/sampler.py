"""`EpisodeSampler`, the base class of every task distribution."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from metabox.checks import shown
from metabox.config import Configured, identity
from metabox.data.preprocessing import Preprocessing
from metabox.episodes import Device, Episodes, Split
from metabox.targets import TaskSpec
from metabox.tasks.place import Place


class EpisodeSampler(Configured, ABC):
    """A task distribution p(T)."""

    data_arguments = ("path", "data_root", "on_device")
    spec: TaskSpec
    preprocessing: Preprocessing | None = None
    """How images were preprocessed; None if x is not an image, or is generated."""
    n_fitting: ClassVar[int] = 1000
    """Training tasks, a multiple of 50, that the statistics of a learner's scale and target are taken from."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "sample" in vars(cls):
            cls.sample = _checked(cls.sample)  # type: ignore[method-assign]

    @abstractmethod
    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """The tasks at a place of the endless list, `T = place.n_tasks` of them.

        A pure function of the place: the same one gives the same bits, on every device (functions computed on CUDA:
        within 1e-6). The random numbers of a sampler come from `place.draws(...)`.

        Args:
            place: how many tasks of which split, and their position in the list.
            device: the device of the tensors.

        Raises:
            ValueError: if the split has no such tasks, or the data are missing.
        """

    def identity(self) -> dict[str, object]:
        """What the tasks depend on, which a resumed run compares: the recorded arguments and the data."""
        return {"data": self.fingerprint(), **identity(self.config)}

    def trained_tasks(self) -> tuple[Tensor | None, Tensor] | None:
        """The descriptors without the index, if any, and the probabilities `[K]` of the named tasks drawn in training.

        None for tasks without names, or if they are not known.
        """
        return None

    def class_names(self) -> dict[Split, list[str]]:
        """Names of the classes of each split that was sampled, if classes have names; opens no data."""
        return {}

    def fingerprint(self) -> str:
        """Identifies the data behind the tasks, to tell whether two results used the same data."""
        return f"{type(self).__name__} (generated)"


def _checked(sample: Callable[..., Episodes]) -> Callable[..., Episodes]:
    """Wrap `sample` so that it need not check its argument; a `Place` has checked its own."""

    @functools.wraps(sample)
    def checked(self: EpisodeSampler, place: Place, device: Device = "cpu") -> Episodes:
        if not isinstance(place, Place):
            mend = 'write sample(Place(n_tasks=4, split="test"))'
            raise ValueError(f"expected a metabox.Place, got {shown(place)}; {mend}")
        return sample(self, place, device)

    return checked
