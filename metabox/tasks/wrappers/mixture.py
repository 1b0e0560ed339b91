"""Training tasks from two distributions in turn: a few real ones, and endlessly many that are generated, say."""

from __future__ import annotations

from dataclasses import replace

from metabox.episodes import Device, Episodes
from metabox.ranges import Share
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.base import Wrapper


class Mixture(Wrapper):
    """The tasks of a sampler; in a share of the training steps those of another one.

    All tasks of a step come from the same sampler. Validation and test tasks are those of the first.

    Args:
        tasks: the tasks that matter.
        other: further tasks to train on, of the same shapes and kind of target.
        share: the share of training steps with tasks of `other`, from 0 to 1, drawn independently for each step.

    Raises:
        ValueError: if the share is outside [0, 1]; at the first use, if the two differ in the shape of x, the target
            or the descriptor.
    """

    def __init__(self, tasks: EpisodeSampler, other: EpisodeSampler, share: Share = 0.5) -> None:
        super().__init__(tasks)
        self.other, self.share = other, share

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """The tasks of the sampler that the step `place.index` has; see `EpisodeSampler.sample`."""
        return self.change(self._at(place).sample(place, device), place)

    def change(self, episodes: Episodes, place: Place) -> Episodes:
        """Nothing changes."""
        return episodes

    def fingerprint(self) -> str:
        return f"{self.tasks.fingerprint()}, mixed with {self.other.fingerprint()}"

    def _at(self, place: Place) -> EpisodeSampler:
        if place.split != "train":
            return self.tasks
        self._check()
        whole = replace(place, n_tasks=1, first=0)  # processes that share a step draw the same
        return self.other if whole.draws("mixture").uniform("which", 0, 1)[0] < self.share else self.tasks

    def _check(self) -> None:
        one, other = self.tasks.spec, self.other.spec
        for name in ("x_shape", "target", "descriptor_size"):
            if (a := getattr(one, name)) != (b := getattr(other, name)):
                raise ValueError(
                    f"expected tasks of one kind in a Mixture, got {name} {a} and {b}; give both the same size and way"
                )
