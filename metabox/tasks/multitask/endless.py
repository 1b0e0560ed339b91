"""One endless task: every batch holds new examples of the same p(x, y), and no support."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metabox.arrays import Floats
from metabox.episodes import Device, Episodes, Examples, Split
from metabox.ranges import Count
from metabox.seeding import Draws
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler


class EndlessTask(EpisodeSampler):
    """Endless examples of one p(x, y).

    The support is empty: each of the T rows of a batch is `n_query` examples. Splits differ only in their draws. All
    is computed on the host, so every device gets the same bits. If p(y|x) is known, `oracle` of a row is its log
    likelihood: the mean log p of each part over the examples that have it, weighted and added up.

    Args:
        n_query: examples in a row of the batch.

    Raises:
        ValueError: if n_query is below 1.
    """

    def __init__(self, n_query: Count) -> None:
        self.n_query = n_query

    @abstractmethod
    def draw(self, draws: Draws, split: Split) -> tuple[NDArray[Any], Floats, Floats | None]:
        """Inputs `[T, M, *x_shape]` and targets `[T, M, K]`, NaN if missing.

        With them log p(y|x) of each part `[T, M, parts]`, or None if it is not known.
        """

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """Rows of examples; see `EpisodeSampler.sample`."""
        inputs, targets, log_p = self.draw(place.draws(type(self).__name__), place.split)
        x = torch.from_numpy(inputs if inputs.dtype == np.uint8 else inputs.astype(np.float32))
        y = torch.from_numpy(targets.astype(np.float32))
        oracle = None
        if log_p is not None:
            there = ~np.isnan(log_p)
            means = np.where(there, log_p, 0).sum(1) / there.sum(1).clip(min=1)
            oracle = torch.from_numpy(
                (means * [part.weight for part in self.spec.target.parts]).sum(-1).astype(np.float32)
            )
        return Episodes(support=Examples(x=x[:, :0], y=y[:, :0]), query=Examples(x=x, y=y), oracle=oracle).to(device)
