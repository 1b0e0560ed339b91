"""Other tasks at the beginning of training."""

from __future__ import annotations

from metabox.episodes import Device, Episodes
from metabox.ranges import Natural
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.base import Wrapper


class TwoStages(Wrapper):
    """The tasks of one sampler up to a training step, and of another from there on: small tables first, say.

    Validation and test tasks are those of the second stage. The step is the index of the `Place`, so that a resumed
    run goes on in its stage.

    Args:
        tasks: the second stage.
        first: the first stage, with the same spec.
        until: the training step at which the second stage begins.

    Raises:
        ValueError: in `sample`, if the specs differ.
    """

    def __init__(self, tasks: EpisodeSampler, first: EpisodeSampler, until: Natural) -> None:
        super().__init__(tasks)
        self.first, self.until = first, until

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """The tasks of the step `place.index`; see `EpisodeSampler.sample`."""
        if self.first.spec != self.spec:
            raise ValueError(f"expected both stages with the same spec, got {self.first.spec} and then {self.spec}")
        early = place.split == "train" and place.index < self.until
        return (self.first if early else self.tasks).sample(place, device)

    def change(self, episodes: Episodes, place: Place) -> Episodes:
        """Nothing: the tasks are as they are."""
        return episodes

    @property
    def n_fitting(self) -> int:  # type: ignore[override]  # that of the inner sampler
        return self.tasks.n_fitting
