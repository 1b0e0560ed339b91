"""Shared by the samplers of functions: how many points a task has, and how points become episodes.

Arithmetic is done on the host in float64 and rounded once, to float32, so CPU and CUDA get the same bits; but Gaussian
processes without an oracle are computed on a GPU, and differ by 1e-6 at most.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metabox.arrays import Booleans, Floats, Integers
from metabox.episodes import Device, Episodes, Examples, Split
from metabox.ranges import Count, CountOrRange, NaturalOrRange, ends
from metabox.seeding import Draws
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler


def padded(values: NDArray[Any], start: Integers | int, count: Integers) -> tuple[NDArray[Any], Booleans]:
    """`count[t]` points of each task from `start[t]` on, padded with zeros: `[T, K, d] -> [T, W, d]`, mask `[T, W]`."""
    place = np.arange(count.max())
    mask = place < count[:, None]
    column = np.minimum(np.reshape(start, (-1, 1)) + place, values.shape[1] - 1)
    column = np.broadcast_to(column, mask.shape)
    return np.where(mask[..., None], np.take_along_axis(values, column[..., None], axis=1), 0), mask


class Sized:
    """Draws how many points a task has; for options and errors see `FunctionTasks`."""

    def __init__(
        self, n_support: NaturalOrRange, n_query: CountOrRange, max_points: Count | None = None, share_sizes: Count = 1
    ) -> None:
        self.n_support = ends(n_support)
        self.n_query = ends(n_query)
        self.max_points = max_points
        self.share_sizes = share_sizes
        if max_points is not None and max_points < self.n_support[1] + self.n_query[0]:
            raise ValueError(
                f"expected max_points of at least {self.n_support[1]} + {self.n_query[0]}, the most support and the "
                f"fewest query points, got {max_points}"
            )

    @property
    def n_points(self) -> int:
        """The most points that a task can have."""
        most = self.n_support[1] + self.n_query[1]
        return most if self.max_points is None else min(most, self.max_points)

    def sizes(self, place: Place, *address: object) -> tuple[Integers, Integers]:
        """Support and query points of each task, two of `[T]`."""
        group = np.arange(place.first, place.first + place.n_tasks) // self.share_sizes
        of_groups = replace(place, n_tasks=int(group[-1] - group[0]) + 1, first=int(group[0]))
        draws = of_groups.draws("sizes", *address)
        n_support = draws.integers("support", *self.n_support)
        low, high = self.n_query
        n_query = draws.integers("query", low, np.minimum(high, self.n_points - n_support))
        group -= group[0]
        return n_support[group], n_query[group]


class FunctionTasks(Sized, EpisodeSampler):
    """A distribution over functions: a task is one of them, seen at some points.

    A subclass says how inputs are drawn, what the targets are and, if it is known, how well the best possible
    predictor does.

    Args:
        n_support: support points of a task, or a range [low, high] to draw it from.
        n_query: query points, or a range.
        max_points: most points of a task, support and query together; the range of n_query is cut to fit.
        share_sizes: this many consecutive tasks have the same sizes, as in code that draws them once for a batch. Tasks
            of different sizes in one batch are padded, with masks.

    Raises:
        ValueError: if an option is out of range, or if max_points leaves a task without a query.
    """

    @abstractmethod
    def inputs(self, draws: Draws, n: int) -> Floats:
        """n inputs for each task, `[T, n, dx]`."""

    @abstractmethod
    def targets(self, draws: Draws, x: Floats, split: Split) -> tuple[Floats, Any]:
        """The targets at x `[T, n, dy]`, and what `score` needs to know about the tasks."""

    def score(self, x: Floats, y: Floats, known: Any, n_support: Integers, n_query: Integers) -> Floats | None:
        """Best possible mean log likelihood of each task's query points `[T]`, in nats; None if it is not known.

        Args:
            x: all points of the tasks `[T, n, dx]`: first support, then query, then further ones that are ignored.
            y: their targets `[T, n, dy]`.
            known: what `targets` returned besides y.
            n_support: support points of each task `[T]`.
            n_query: query points of each task `[T]`.
        """
        return None

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """A batch of functions; see `EpisodeSampler.sample`."""
        n_support, n_query = self.sizes(place, type(self).__name__)
        draws = place.draws(type(self).__name__)
        # Rounded before it is used, so that y and the oracle belong to the x that is returned.
        x = self.inputs(draws, self.n_points).astype(np.float32)
        exact, known = self.targets(draws, x.astype(np.float64), place.split)
        y = exact.astype(np.float32)
        best = self.score(x.astype(np.float64), y.astype(np.float64), known, n_support, n_query)
        parts = []
        for start, count in ((0, n_support), (n_support, n_query)):
            (px, mask), (py, _) = padded(x, start, count), padded(y, start, count)
            parts.append(Examples(x=torch.from_numpy(px), y=torch.from_numpy(py), mask=torch.from_numpy(mask)))
        oracle = None if best is None else torch.from_numpy(best.astype(np.float32))
        return Episodes(support=parts[0], query=parts[1], oracle=oracle).to(device)
