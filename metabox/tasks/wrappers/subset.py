"""Some of the named tasks of a sampler, or some of the parts of its target."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from metabox.arrays import Integers
from metabox.checks import shown
from metabox.episodes import Device, Episodes, Examples, Split
from metabox.seeding import Draws
from metabox.targets import Part, Parts, PerTask, Target, TaskSpec
from metabox.tasks.named import FiniteTasks
from metabox.tasks.place import Place
from metabox.tasks.rows import Rows
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.base import Wrapper


class Subset(Wrapper):
    """Some of the named tasks of another sampler, or some of the parts of its target, for a network of their own.

    Named tasks take turns, in training too: a batch of c K' tasks holds each of K' tasks c times. The index in a
    descriptor is that of the tasks that are left, and what else is told of a task stays. Parts are of the same
    examples as before. There is no `oracle`.

    Args:
        tasks: the other sampler; `FiniteTasks` for named tasks.
        names: those that are left, one at least.

    Raises:
        ValueError: for no names, or one twice; at the first use, if they are not among the tasks that have training
            rows, or the parts.
    """

    def __init__(self, tasks: EpisodeSampler, names: tuple[str, ...]) -> None:
        super().__init__(tasks)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"expected one or more different names, got {list(names)}")
        self.names = tuple(names)

    @cached_property
    def _inner(self) -> EpisodeSampler:
        spec = self.tasks.spec
        known = spec.trained or tuple(part.name for part in spec.target.parts)
        if unknown := [name for name in self.names if name not in known]:
            raise ValueError(f"expected names of trained tasks, or of parts, among {shown(list(known))}, got {unknown}")
        if not spec.tasks:
            return self.tasks
        if not isinstance(self.tasks, FiniteTasks):
            raise ValueError(f"expected FiniteTasks for named tasks, got {type(self.tasks).__name__}")
        return _InTurn(self.tasks, self.names)

    @property
    def spec(self) -> TaskSpec:  # type: ignore[override]  # known once the data are loaded
        spec = self._inner.spec
        return spec if spec.tasks else replace(spec, target=_target(spec.target, self.names))

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """The tasks that are left, or the examples of all parts that are; see `EpisodeSampler.sample`."""
        return self.change(self._inner.sample(place, device), place)

    def change(self, episodes: Episodes, place: Place) -> Episodes:
        episodes = replace(episodes, oracle=None)
        if self.tasks.spec.tasks:
            return episodes
        left = [_labels_of(part, self.tasks.spec.target, self.names) for part in (episodes.support, episodes.query)]
        return replace(episodes, support=left[0], query=left[1])

    def trained_tasks(self) -> tuple[Tensor | None, Tensor] | None:
        return self._inner.trained_tasks()

    def fingerprint(self) -> str:
        return f"{', '.join(self.names)} of {self.tasks.fingerprint()}"


class _InTurn(FiniteTasks):
    """Some tasks of another sampler, in turn."""

    def __init__(self, tasks: FiniteTasks, names: tuple[str, ...]) -> None:
        super().__init__(tasks.n_support, tasks.n_query, untold=tasks.untold, support_split=tasks.support_split)
        self.of, self.names = tasks, names

    def load(self) -> Rows:
        rows = self.of._rows
        kept = np.array([rows.spec.tasks.index(name) for name in self.names])
        mine = np.isin(np.asarray(rows.task), kept)
        spec, z = rows.spec, rows.descriptors
        index = len(self.names) if spec.index_size else 0
        target = _target(spec.target, self.names)
        y = rows.y[torch.from_numpy(mine)]
        return Rows(
            x=rows.x[torch.from_numpy(mine)],
            y=y[:, _columns(spec.target, self.names)] if target.parts else y,
            split=np.asarray(rows.split)[mine],
            spec=replace(
                spec,
                target=target,
                tasks=self.names,
                untrained=(),
                index_size=index,
                descriptor_size=spec.descriptor_size - spec.index_size + index,
            ),
            task=np.argmax(np.asarray(rows.task)[mine][:, None] == kept, axis=1),
            descriptors=None if z is None else z[torch.from_numpy(kept)],
            ways=None if rows.ways is None else np.asarray(rows.ways)[kept],
        )

    def _tasks(self, draws: Draws, split: Split) -> Integers:
        (there,) = np.nonzero(self._places[split][2])
        return there[draws.tasks % len(there)] if len(there) else super()._tasks(draws, split)


def _kept(target: Target, names: tuple[str, ...]) -> list[Part]:
    return [part for part in target.parts if part.name in names]


def _columns(target: Target, names: tuple[str, ...]) -> list[int]:
    """The columns of y that belong to the parts that are left; all if no part has such a name."""
    ends = np.cumsum([0] + [part.columns for part in target.parts])
    left = _kept(target, names) or target.parts
    return [
        c for part, end in zip(target.parts, ends, strict=False) if part in left for c in range(end, end + part.columns)
    ]


def _target(target: Target, names: tuple[str, ...]) -> Target:
    """The target of the tasks or parts that are left; the whole if its parts are not the tasks."""
    if isinstance(target, PerTask):
        return PerTask(names, [target.kinds[target.tasks.index(name)] for name in names])
    return Parts(_kept(target, names)) if _kept(target, names) else target


def _labels_of(examples: Examples, target: Target, names: tuple[str, ...]) -> Examples:
    return replace(examples, y=examples.y[..., _columns(target, names)])
