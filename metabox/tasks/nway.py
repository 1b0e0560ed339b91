"""N-way K-shot episodes from images that are sorted into classes.

`NWayKShot` chooses the class and the drawing of each place: integers, drawn on the host for all tasks at once. A
`ClassImages` turns them into pixels on the device, in one gather (stored sets) or one rendering (procedural ones).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabox.arrays import Integers
from metabox.data.augment import Augmentation, augmented
from metabox.data.class_images import ClassImages
from metabox.episodes import SPLITS, Device, Episodes, Examples, Split, moved
from metabox.ranges import Count, CountOrRange, ends
from metabox.seeding import Draws
from metabox.targets import Classes, TaskSpec
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler

AHEAD = 64  # indices drawn at once, if calls follow each other
EXAMPLES_AHEAD = 1 << 19  # but not more than this many examples
MOST = 1 << 20  # images of a task; more would take too long to draw


class _Plan(NamedTuple):
    """The drawing at each place in the tasks of one index, on the host."""

    drawn: Tensor  # ids of drawings [T, N + M], arbitrary ones in the padding
    origin: Tensor  # the same with -1 in the padding
    label: Tensor  # [T, N + M]
    mask: Tensor  # [T, N + M]
    has_class: Tensor  # [T, C]


class _Pool:
    """The classes of a split, sorted so that each group is contiguous."""

    def __init__(self, images: ClassImages, split: Split, grouped: bool) -> None:
        classes = images.splits.get(split)
        if classes is None or not len(classes):
            raise ValueError(
                f"expected a split among {sorted(k for k, v in images.splits.items() if len(v))}, got {split!r}; "
                "this set has no classes there"
            )
        self.classes = np.asarray(classes, dtype=np.int64)
        self.start = np.zeros(1, dtype=np.int64)
        self.length = np.full(1, len(self.classes), dtype=np.int64)
        if grouped:
            if images.groups is None:
                raise ValueError("expected a set whose classes have groups, got one without; use within_groups=False")
            group = images.groups[self.classes]
            self.classes = self.classes[np.argsort(group, kind="stable")]
            _, self.start, self.length = np.unique(np.sort(group), return_index=True, return_counts=True)
        sizes = images.sizes[self.classes]
        self.smallest, self.largest = int(sizes.min()), int(sizes.max())
        self.poorest = int(self.classes[sizes.argmin()])


class NWayOptions(TypedDict, total=False):
    """The options of `NWayKShot`, for the signatures of its subclasses."""

    n_way: int | tuple[int, int]
    n_shot: int | tuple[int, int]
    n_query: int | tuple[int, int]
    imbalanced: bool
    within_groups: bool
    augment: Augmentation | None
    names: int | None


class NWayKShot(EpisodeSampler):
    """Draws N-way K-shot episodes: classes and drawings without replacement, labels in random order.

    Support and query never share a drawing. If way, shot or query have a range, each task draws
    its own and the batch is padded to the largest, with masks. `load` is called at the first use.

    Args:
        n_way: classes in a task, or a range [low, high] from which each task draws its own.
        n_shot: support images of each class, or a range.
        n_query: query images of each class, or a range.
        imbalanced: draw the number of shots for each class of a task separately, instead of once for the task.
        within_groups: draw all classes of a task from one group (an alphabet, say), itself drawn uniformly.
        augment: changes the images of the training split at random.
        names: draw the class labels of each task without replacement from this many ids, instead of using
            0 ... n_way - 1. A learner is not told which ids a task has, so the label set is all of them, and it is
            scored over all of them (Santoro et al. 2016, section 4.1, has 3,125 strings of five characters).

    Raises:
        ValueError: if there are fewer names than classes in a task; at the first episode of a split, if the
            split has too few classes, groups or images.
    """

    def __init__(
        self,
        n_way: CountOrRange = 5,
        n_shot: CountOrRange = 1,
        n_query: CountOrRange = 15,
        imbalanced: bool = False,
        within_groups: bool = False,
        augment: Augmentation | None = None,
        names: Count | None = None,
    ) -> None:
        self.n_way = ends(n_way)
        self.n_shot = ends(n_shot)
        self.n_query = ends(n_query)
        self.imbalanced = imbalanced
        self.within_groups = within_groups
        self.augment = augment
        self.names = names
        if (most := self.n_way[1] * (self.n_shot[1] + self.n_query[1])) > MOST:
            raise ValueError(
                f"expected tasks of at most {MOST:,} images, got n_way * (n_shot + n_query) = {most:,}; lower them"
            )
        if names is not None and names < self.n_way[1]:
            raise ValueError(f"expected names for at least the {self.n_way[1]} classes of a task, got {names}")
        self._pools: dict[Split, _Pool] = {}
        self._next: tuple[Place | None, tuple[_Plan, ...]] = None, ()

    masked = False
    """Whether the queries that a class lacks are masked; else a split with such a class is refused."""

    @abstractmethod
    def load(self) -> ClassImages:
        """Open the images; called once, at the first use."""

    @cached_property
    def images(self) -> ClassImages:
        return self.load()

    @property
    def spec(self) -> TaskSpec:  # type: ignore[override]  # computed here, an attribute elsewhere
        return TaskSpec(x_shape=self.images.image_shape, target=Classes(self.names or self.n_way[1]))

    def fingerprint(self) -> str:
        return self.images.fingerprint

    def class_names(self) -> dict[Split, list[str]]:
        names = {split: self.images.class_names(split) for split in SPLITS if split in self._pools}
        return {split: found for split, found in names.items() if found}

    def _pool(self, split: Split) -> _Pool:
        if split not in self._pools:
            pool = _Pool(self.images, split, self.within_groups)
            where = "its smallest group" if self.within_groups else "the split"
            if pool.length.min() < self.n_way[0]:
                raise ValueError(
                    f"expected n_way of at most {pool.length.min()}, the number of classes in {where} of {split!r}, "
                    f"got {self.n_way[0]}; lower n_way{' or the low end of its range' * self.within_groups}"
                )
            if not self.within_groups and pool.length[0] < self.n_way[1]:
                raise ValueError(
                    f"expected n_way of at most {pool.length[0]}, the number of classes in {split!r}, "
                    f"got {self.n_way[1]}; lower n_way"
                )
            queries = 1 if self.masked else self.n_query[1]
            needed = self.n_shot[1] + queries
            if pool.smallest < needed:
                raise ValueError(
                    f"expected at least n_shot + n_query = {self.n_shot[1]} + {queries} = {needed} images "
                    f"in every class of {split!r}, got {pool.smallest} in {self.images.class_name(pool.poorest)}; "
                    "lower n_shot or n_query"
                )
            self._pools[split] = pool
        return self._pools[split]

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """Episodes `[T, ...]`; see `EpisodeSampler.sample`."""
        plan = self._plan(place)
        # One gather for support and query together, then two views of it.
        x = self.images.pictures(plan.drawn.view(-1), device)
        if self.augment is not None and place.split == "train":
            x = augmented(self.augment, x, place.draws("augmentation"))
        x = x.view(*plan.drawn.shape, *self.images.image_shape)
        origin, label, mask, classes = (moved(part, device) for part in plan[1:])
        n = self.n_way[1] * self.n_shot[1]
        return Episodes(
            support=Examples(x=x[:, :n], y=label[:, :n], mask=mask[:, :n]),
            query=Examples(x=x[:, n:], y=label[:, n:], mask=mask[:, n:]),
            classes=classes if self.names is None else torch.ones_like(classes[:, :1]).expand(-1, self.names),
            origin=origin,
        )

    def _plan(self, place: Place) -> _Plan:
        """The drawing at each place in the tasks of a `Place`.

        A call for the index after the last one also draws the next few, since NumPy's time on small arrays is
        mostly overhead of calls. What is drawn does not depend on it. A plan is returned once, since the caller
        may change its tensors.
        """
        expected, plans = self._next
        goes_on = expected == place
        if not (goes_on and plans):
            examples = place.n_tasks * self.n_way[1] * (self.n_shot[1] + self.n_query[1])
            plans = self._draw(place, min(AHEAD, max(1, EXAMPLES_AHEAD // examples)) if goes_on else 1)
        # One assignment, because another thread may be sampling.
        self._next = replace(place, index=place.index + 1), plans[1:]
        return plans[0]

    def _draw(self, place: Place, n_indices: int) -> tuple[_Plan, ...]:
        """The plans of a place and of the next indices, drawn together."""
        pool = self._pool(place.split)
        draws = place.draws("n-way k-shot", n_indices=n_indices)
        classes, way = self._draw_classes(draws, pool)
        has_class = np.arange(self.n_way[1]) < way[:, None]
        shots, each = self.n_shot[1], self.n_shot[1] + self.n_query[1]
        size = self.images.sizes[classes]
        lacking = pool.smallest < each
        if lacking:
            items = draws.distinct("items", each, np.maximum(size, each), each, max(pool.largest, each))
            items = np.minimum(_real_first(items, size), size[..., None] - 1)
        else:
            items = draws.distinct("items", each, size, smallest=pool.smallest, largest=pool.largest)
        n_shot, n_query = self._draw_counts(draws)
        number = np.arange(each)  # of a drawing within its class: support first, then query
        alike = all(low == high for low, high in (self.n_way, self.n_shot, self.n_query))
        rows = np.s_[: 1 if alike else None, :, None]
        end = np.where(number < shots, n_shot[rows], shots + n_query[rows])
        valid = (number < end) & has_class[rows]  # [T or 1, C, J]
        if lacking:
            valid = valid & (number < size[..., None])
        # Support, its padding, query, its padding, each in random order.
        order = draws.shuffled("order", (2 * (number >= shots) + ~valid).reshape(len(valid), -1))
        label = np.repeat(np.arange(self.n_way[1]), each).take(order)  # a table, because division is slow
        origin = drawn = _pick(self.images.ids(classes[..., None], items), order)
        if self.names is not None:
            name = draws.distinct("names", self.n_way[1], np.full_like(way, self.names), self.names, self.names)
            label = _pick(name, label)
        if valid.all():
            mask = np.ones(label.shape, dtype=np.bool_)
        else:
            mask = _pick(np.broadcast_to(valid, items.shape), order)
            label, origin = np.where(mask, label, 0), np.where(mask, drawn, -1)
        parts = (torch.from_numpy(part).split(place.n_tasks) for part in (drawn, origin, label, mask, has_class))
        return tuple(map(_Plan, *parts))

    def _draw_classes(self, draws: Draws, pool: _Pool) -> tuple[Integers, Integers]:
        """Classes `[T, C]` and ways `[T]`. The order of the draw is random, so a class's place is its label."""
        low, high = self.n_way
        group = draws.integers("group", 0, len(pool.start) - 1)
        length = pool.length[group]
        way = draws.integers("way", low, np.minimum(high, length))
        # If a group is smaller than the largest way, its missing places are masked and hold an arbitrary class.
        room = np.maximum(length, high)
        # Bounds of the pool, not of this batch: they determine how many words a task draws.
        smallest, largest = (max(int(bound), high) for bound in (pool.length.min(), pool.length.max()))
        place = draws.distinct("classes", high, room, smallest=smallest, largest=largest)
        if self.within_groups:
            place = _real_first(place, length)
        return pool.classes[pool.start[group, None] + np.minimum(place, length[:, None] - 1)], way

    def _draw_counts(self, draws: Draws) -> tuple[Integers, Integers]:
        """Shots and queries of each class, `[T, C]`, or `[T, 1]` if a task's classes share one number."""
        columns = self.n_way[1] if self.imbalanced else 1
        return draws.integers("shots", *self.n_shot, columns), draws.integers("queries", *self.n_query, 1)


def _pick(values: NDArray[Any], columns: Integers) -> NDArray[Any]:
    """`values[t, columns[t]]`: `[T, ...], [T, K] -> [T, K]` (`np.take_along_axis` costs three times as much)."""
    t = len(values)
    return values.ravel().take(columns + np.arange(0, values.size, values.size // t)[:, None])


def _real_first(place: Integers, length: Integers) -> Integers:
    """Each row with the places below its length first, both parts in their random order."""
    return np.take_along_axis(place, np.argsort(place >= length[..., None], axis=-1, kind="stable"), axis=-1)
