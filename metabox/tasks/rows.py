"""The data of finitely many named tasks, all in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabox.arrays import Booleans, Integers
from metabox.checks import check_fields, shown
from metabox.episodes import SPLITS, Examples
from metabox.inputs import tensor_of
from metabox.targets import TaskSpec


@dataclass(frozen=True, eq=False, kw_only=True)
class Rows:
    """All examples of all tasks, one per row.

    x: `[n, *x_shape]`, images as uint8; may be memory-mapped
    y: `[n]` class ids, or `[n, size]` for other kinds of target (NaN for a missing label of a part)
    split: "train", "val" or "test", `[n]`
    spec: the kind of task, with the K names of the tasks in it (none if there is only one task)
    task: the task of each row, `[n]`; None if there is only one
    descriptors: z_i of each task, `[K, dz]`, or without the index that the spec may have; None if z_i is the index
        alone. An index is checked, and not kept
    ways: how many classes each task has, `[K]`; None if each has all

    Raises:
        ValueError: if the parts do not fit together, or a task lacks rows to train on.
    """

    x: Tensor
    y: Tensor
    split: Sequence[str] | NDArray[np.str_]
    spec: TaskSpec
    task: Integers | None = None
    descriptors: Tensor | None = None
    ways: Integers | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name, axes in (("x", "[n, *x_shape]"), ("y", "[n] or [n, size]"), ("descriptors", "[K, dz]")):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, tensor_of(name, value, axes))
        for name in ("task", "ways"):
            if (value := getattr(self, name)) is not None and np.asarray(value).dtype.kind not in "iu":
                raise ValueError(f"expected {name} as whole numbers, got {shown(value)}")
        n, tasks = len(self.x), max(1, len(self.spec.tasks))
        lengths = {"y": len(self.y), "split": len(self.split), "task": n if self.task is None else len(self.task)}
        if wrong := {name: length for name, length in lengths.items() if length != n}:
            raise ValueError(f"expected as many entries as x has rows, {n}, got {wrong}")
        if unknown := sorted(set(map(str, np.unique(self.split))) - set(SPLITS)):
            raise ValueError(f"expected splits among {SPLITS}, got {unknown}")
        if self.task is not None and n and not 0 <= self.task.min() <= self.task.max() < tasks:
            raise ValueError(
                f"expected task ids from 0 to {tasks - 1} for the tasks {self.spec.tasks}, got {self.task.min()} to "
                f"{self.task.max()}"
            )
        for name, values in (("descriptors", self.descriptors), ("ways", self.ways)):
            if values is not None and len(values) != tasks:
                raise ValueError(f"expected {name} of {tasks} tasks, got {len(values)}")
        size = 0 if self.descriptors is None else self.descriptors.shape[1]
        if size not in (self.spec.descriptor_size, self.spec.descriptor_size - self.spec.index_size):
            short = ", or without their index" if self.spec.index_size else ""
            raise ValueError(f"expected descriptors [{tasks}, {self.spec.descriptor_size}]{short}, got [..., {size}]")
        if self.descriptors is not None and not torch.isfinite(self.descriptors).all():
            raise ValueError("expected finite descriptors, got NaN or infinity")
        self._note_untrained()
        size = self.spec.descriptor_size
        one = torch.zeros(1, size) if size else None
        self.spec.check(Examples(x=self.x[None], y=self.y[None]), one)  # as one task, although the rows are of all

    def _note_untrained(self) -> None:
        """Find the tasks without training rows, which get no column of the index."""
        spec, names = self.spec, self.spec.tasks
        seen = (
            np.zeros(0, dtype=np.int64)
            if self.task is None
            else np.asarray(self.task)[np.asarray(self.split) == "train"]
        )
        without = np.bincount(seen, minlength=len(names))[: len(names)] == 0
        if without.all():
            without[:] = False
        z, index, untrained = self.descriptors, spec.index_size, tuple(np.array(names, dtype=object)[without])
        if z is not None and index and z.shape[1] == spec.descriptor_size:
            self._check_index(z[:, :index], ~without)
            z = z[:, index:].clone()
        rest = spec.descriptor_size - index
        if index and not rest and untrained:
            raise ValueError(
                f"expected training rows of every task that is told by its index, got none of "
                f"{', '.join(untrained)}; describe tasks in another way as well, or leave these out"
            )
        index = int((~without).sum()) if index else 0
        object.__setattr__(self, "descriptors", z if rest else None)
        object.__setattr__(
            self, "spec", replace(spec, descriptor_size=index + rest, index_size=index, untrained=untrained)
        )

    def _check_index(self, index: Tensor, trained: Booleans) -> None:
        if index.shape[1] == len(trained):
            index = index[:, torch.from_numpy(trained)]
        wanted = torch.zeros_like(index)
        wanted[torch.from_numpy(trained)] = torch.eye(index.shape[1])
        if not torch.equal(index, wanted):
            raise ValueError(
                f"expected descriptors that begin with the index of each trained task, one-hot in their order, "
                f"and zeros for others, as index_size {index.shape[1]} says, got other numbers; use index_size=0 for "
                "descriptors that are no index"
            )

    @cached_property
    def _in_index(self) -> Integers:
        """The place of each task in the index, `[K]`; -1 for those without training rows."""
        trained = ~np.isin(np.array(self.spec.tasks, dtype=object), np.array(self.spec.untrained, dtype=object))
        found: Integers = np.where(trained, np.cumsum(trained) - 1, -1)
        return found

    def told(self, task: Integers) -> Tensor | None:
        """z of these tasks, `[T, dz]`: the index, if there is one, and then what else is told."""
        if not self.spec.descriptor_size:
            return None
        index = torch.zeros(len(task), self.spec.index_size)
        if self.spec.index_size:
            place = self._in_index[task]
            index[np.nonzero(place >= 0)[0], place[place >= 0]] = 1
        if self.descriptors is None:
            return index
        return torch.cat([index, self.descriptors[torch.from_numpy(task)]], dim=1)
