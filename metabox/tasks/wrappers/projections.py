"""Many tasks from few: each sees its inputs through its own random linear map."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from metabox.episodes import Episodes, Examples
from metabox.ranges import Count
from metabox.seeding import Draws
from metabox.targets import TaskSpec
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.base import Wrapper


class RandomProjections(Wrapper):
    """The tasks of another sampler with inputs A x, A drawn for each task (Kirsch et al. 2022, "GPICL", section 3).

    x is flattened (images in 0...1); the entries of A are normal with variance 1 / (numbers in x). The other half of
    the paper's augmentation, a random permutation of the labels, is what N-way samplers draw anyway.

    Args:
        tasks: any sampler.
        size: numbers in A x; as many as in x by default.
        n_maps: how many maps training tasks choose from, to study generalisation; None for a new map for each task.
            Validation and test tasks always have new maps.

    Raises:
        ValueError: if `size` or `n_maps` is below 1.
    """

    def __init__(self, tasks: EpisodeSampler, size: Count | None = None, n_maps: Count | None = None) -> None:
        super().__init__(tasks)
        self.size, self.n_maps = size, n_maps

    @property
    def spec(self) -> TaskSpec:  # type: ignore[override]  # the inner sampler opens its data at the first use
        inner = self.tasks.spec
        return replace(inner, x_shape=(self.size or math.prod(inner.x_shape),))

    def change(self, episodes: Episodes, place: Place) -> Episodes:
        draws = place.draws("projections")
        n_in, n_out = math.prod(self.tasks.spec.x_shape), self.spec.x_shape[0]
        if self.n_maps and place.split == "train":
            which = draws.integers("which", 0, self.n_maps - 1)
            maps = [Draws("maps", n_tasks=1, first=int(k)).normal("A", n_in, n_out) for k in which]
            drawn = torch.cat([torch.from_numpy(a) for a in maps])
        else:
            drawn = torch.from_numpy(draws.normal("A", n_in, n_out))
        maps_ = (drawn / math.sqrt(n_in)).float().to(episodes.support.x.device)

        def project(examples: Examples) -> Examples:
            x: Tensor = examples.x.flatten(2)
            x = x.float() / 255 if x.dtype == torch.uint8 else x
            with torch.autocast(x.device.type, enabled=False):  # a validation draws its tasks under autocast
                return replace(examples, x=x @ maps_)

        return replace(episodes, support=project(episodes.support), query=project(episodes.query))
