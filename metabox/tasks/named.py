"""Finitely many named tasks, each with its own data: multi-task learning, with or without a support."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabox.arrays import Booleans, Integers
from metabox.config import Unpack
from metabox.episodes import SPLITS, Device, Episodes, Examples, Split
from metabox.ranges import CountOrRange, NaturalOrRange, Positive, Share
from metabox.seeding import Draws
from metabox.targets import TaskSpec
from metabox.tasks.functions.base import Sized
from metabox.tasks.place import Place
from metabox.tasks.rows import Rows
from metabox.tasks.sampler import EpisodeSampler


class FiniteOptions(TypedDict, total=False):
    """The options of `FiniteTasks`, for the signatures of its subclasses."""

    n_support: int | tuple[int, int]
    n_query: int | tuple[int, int]
    temperature: float | None
    untold: float
    support_split: Split | None
    untrained: tuple[str, ...]


class FiniteTasks(Sized, EpisodeSampler):
    """Rows of finitely many tasks: first a task is drawn for each place in the batch, then data within the task.

    In training, tasks are drawn at random, and support and query are different training rows of the task. In
    validation and test, tasks come in turn: the query is of that split, and the support still of the training rows,
    since the task is the same and its training labels are known. With `n_query` as large as the largest task, an
    evaluation with one episode per task uses all the data once.

    A subclass implements `load`.

    Args:
        n_support: support examples of a task, or a range [low, high]; 0 if only the descriptor identifies the task.
        n_query: query examples, or a range; fewer if a task has no more.
        temperature: in training, the probability of a task is proportional to its number of training rows to the power
            1 / temperature: 1 is proportional to size; None is uniform, whatever the sizes.
        untold: the share of tasks in a batch whose descriptor is replaced with zeros.
        support_split: whose rows are the supports in validation and test; by default the training rows. With "val" or
            "test" nothing was trained on a support, and its rows are none of the queries'.
        untrained: names of tasks that are never trained. The test has these only, training and validation the others.

    Raises:
        ValueError: if an option is out of range; at the first use, if the data are missing or do not fit.
    """

    def __init__(
        self,
        n_support: NaturalOrRange = 0,
        n_query: CountOrRange = 16,
        temperature: Positive | None = None,
        untold: Share = 0.0,
        support_split: Split | None = None,
        untrained: tuple[str, ...] = (),
    ) -> None:
        super().__init__(n_support, n_query)
        self.temperature = temperature
        self.untold = untold
        self.support_split = support_split
        self.untrained = tuple(untrained)

    @abstractmethod
    def load(self) -> Rows:
        """All the data; called once, at the first use."""

    @cached_property
    def _rows(self) -> Rows:
        rows = self.load()
        if not self.untrained:
            return rows
        if unknown := [name for name in self.untrained if name not in rows.spec.tasks]:
            raise ValueError(f"expected tasks to hold out among the names {rows.spec!r} has, got {unknown}")
        of_task = self._untrained(rows)
        if of_task.all():
            raise ValueError(f"expected a task to train, got all {len(of_task)} held out")
        untrained = of_task[np.asarray(rows.task)] & (np.asarray(rows.split) == "train")
        return replace(rows, split=np.where(untrained, "val", rows.split))

    def _untrained(self, rows: Rows) -> Booleans:
        """Which tasks are held out, `[K]`."""
        return np.isin(np.array(rows.spec.tasks or ("",), dtype=object), np.array(self.untrained, dtype=object))

    @property
    def spec(self) -> TaskSpec:  # type: ignore[override]  # known once the data are loaded
        return self._rows.spec

    def fingerprint(self) -> str:
        rows = self._rows
        content = 0
        for values in (rows.x, rows.y):
            content = zlib.crc32(np.ascontiguousarray(values.numpy()).data, content)
        return f"{type(self).__name__} ({len(rows.x)} rows, {content:08x})"

    @cached_property
    def _places(self) -> dict[Split, tuple[Integers, Integers, Integers]]:
        """For each split: its rows, sorted by task, and the start and number of each task's rows, both `[K]`."""
        rows, n_tasks = self._rows, max(1, len(self.spec.tasks))
        task = np.zeros(len(rows.x), dtype=np.int64) if rows.task is None else np.asarray(rows.task)
        split, held = np.asarray(rows.split), self._untrained(rows)
        places = {}
        for name in SPLITS:
            (mine,) = np.nonzero(
                (split == name) & (held[task] == (name == "test")) if self.untrained else split == name
            )
            mine = mine[np.argsort(task[mine], kind="stable")]
            count = np.bincount(task[mine], minlength=n_tasks)
            places[name] = mine, np.cumsum(count) - count, count
        return places

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """A batch of tasks; see `EpisodeSampler.sample`."""
        split = place.split
        n_support, n_query = self.sizes(place, type(self).__name__)
        draws = place.draws(type(self).__name__)
        task = self._tasks(draws, split)
        source = "train" if split == "train" else (self.support_split or "train")
        if source == split:  # support and query share no row
            count = self._places[split][2][task]
            n_support = np.minimum(n_support, count - 1)  # one is left for the query
            n_query = np.minimum(n_query, count - n_support)
            chosen = self._choose(draws, "rows", split, task, self.n_support[1] + self.n_query[1])
            column = np.arange(max(1, int(n_query.max())))
            support = _first(chosen, n_support)
            query = np.take_along_axis(chosen, np.minimum(n_support[:, None] + column, chosen.shape[1] - 1), axis=1)
            query = np.where(column < n_query[:, None], query, -1)
        else:
            kept = np.minimum(n_support, self._places[source][2][task])
            support = _first(self._choose(draws, "support", source, task, self.n_support[1]), kept)
            asked = np.minimum(n_query, self._places[split][2][task])
            query = _first(self._choose(draws, "query", split, task, self.n_query[1]), asked)
        return self._episodes(draws, task, support, query).to(device)

    def _tasks(self, draws: Draws, split: Split) -> Integers:
        """The task of each row of the batch, `[T]`."""
        (there,) = np.nonzero(self._places[split][2])
        if not len(there):
            raise ValueError(f"expected rows in split {split!r}, got none; this set has others")
        if split != "train":
            return there[draws.tasks % len(there)]
        if self.temperature is None:
            return there[draws.integers("task", 0, len(there) - 1)]
        size = self._places[split][2][there].astype(np.float64)
        edges = np.cumsum((size / size.max()) ** (1 / self.temperature))
        return there[np.searchsorted(edges, draws.uniform("task", 0.0, edges[-1]))]

    def trained_tasks(self) -> tuple[Tensor | None, Tensor] | None:
        if not self.spec.tasks:
            return None
        size = self._places["train"][2]
        (there,) = np.nonzero(size)
        power = 0.0 if self.temperature is None else 1 / self.temperature
        share = torch.from_numpy(size[there].astype(np.float64) ** power)
        rest = self._rows.descriptors
        return (None if rest is None else rest[torch.from_numpy(there)]), (share / share.sum()).float()

    def _choose(self, draws: Draws, name: str, split: Split, task: Integers, most: int) -> Integers:
        """`most` rows of each task without replacement, in random order, or all if it has fewer: `[T, W]`.

        Entries beyond a task's rows are arbitrary. The draws do not depend on the other tasks of the batch.
        """
        rows, start, size = self._places[split]
        there, n = size[size > 0], size[task]
        if not most or not len(there):
            return np.zeros((len(task), 0), dtype=np.int64)
        if there.min() >= most:
            chosen = draws.distinct(name, most, n, int(there.min()), int(there.max()))
        else:
            chosen = draws.shuffled(name, np.arange(there.max()) >= n[:, None])[:, :most]
        found: NDArray[np.int64] = rows[np.minimum(start[task][:, None] + chosen, len(rows) - 1)]
        return found

    def _episodes(self, draws: Draws, task: Integers, support: Integers, query: Integers) -> Episodes:
        rows = self._rows
        examples = []
        for chosen in (support, query):
            at, mask = torch.from_numpy(np.maximum(chosen, 0)), torch.from_numpy(chosen >= 0)
            examples.append(Examples(x=rows.x[at], y=rows.y[at], mask=mask).blanked())
        z = rows.told(task)
        if z is not None:
            z = z * torch.from_numpy(draws.uniform("untold", 0.0, 1.0) >= self.untold)[:, None]
        classes = None
        if self.spec.target.n_classes is not None:
            way = self.spec.target.size if rows.ways is None else rows.ways[task][:, None]
            classes = torch.from_numpy(
                np.broadcast_to(np.arange(self.spec.target.size) < way, (len(task), self.spec.target.size)).copy()
            )
        return Episodes(
            support=examples[0],
            query=examples[1],
            descriptor=z,
            classes=classes,
            origin=torch.from_numpy(np.concatenate([support, query], axis=1)),
            task=torch.from_numpy(task) if self.spec.tasks else None,
        )


def _first(chosen: Integers, count: Integers) -> Integers:
    """The first `count[t]` of each row, then -1: `[T, W] -> [T, max(count)]`."""
    width = int(count.max())
    there: Booleans = np.arange(width) < count[:, None]
    return np.where(there, chosen[:, :width], -1)


class InMemory(FiniteTasks):
    """Finitely many tasks given as tensors.

    Args:
        rows: all examples of all tasks.
        **kwargs: of `FiniteTasks`.
    """

    def __init__(self, rows: Rows, **kwargs: Unpack[FiniteOptions]) -> None:
        super().__init__(**kwargs)
        self.given = rows

    def load(self) -> Rows:
        return self.given
