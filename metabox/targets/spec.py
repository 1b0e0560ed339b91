"""What a learner must know to be built."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from metabox.checks import check_fields, kind_of
from metabox.ranges import Natural, Shape
from metabox.targets.base import Target
from metabox.targets.vector import check_finite

if TYPE_CHECKING:
    from metabox.episodes import Episodes, Examples


Scale = Literal["none", "training", "support"]
"""By whose statistics a learner brings x and y to location 0 and scale 1; see `TaskSpec`."""


@dataclass(frozen=True)
class TaskSpec:
    """What a learner must know to be built.

    x_shape: shape of one input; three axes mean an image `[channels, height, width]`
    target: what y is, such as `Classes(5)`
    descriptor_size: dz, 0 if tasks have no descriptor
    tasks: names of the tasks, if there is a finite list of them
    index_size: how many first columns of a descriptor are the index of a task, one-hot: one for each trained task, or 0
    untrained: the names of those tasks that have no training data
    scale: how the learner brings vectors x and real y to location 0 and scale 1: "none", it does not; "training", by
        the statistics of the training tasks, kept with its weights; "support", by those of each task's support, kept in
        phi, for numbers in any unit. It answers in the units of y in every case

    Raises:
        ValueError: if a size is out of range, or the target is not a `Target`.
    """

    x_shape: Shape
    target: Target
    descriptor_size: Natural = 0
    tasks: tuple[str, ...] = ()
    scale: Scale = "none"
    index_size: Natural = 0
    untrained: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if unknown := [name for name in self.untrained if name not in self.tasks]:
            raise ValueError(f"expected untrained among the names of the tasks, got {unknown}")
        k = len(self.trained)
        if self.index_size not in (0, k) or self.index_size > self.descriptor_size:
            raise ValueError(
                f"expected index_size 0, or {k}, the number of trained tasks, within a descriptor of that size at "
                f"least, got {self.index_size} of {self.descriptor_size}; a descriptor without an index has 0"
            )

    @property
    def trained(self) -> tuple[str, ...]:
        """The names of the tasks with training data, in the order of an index."""
        return tuple(name for name in self.tasks if name not in set(self.untrained))

    def __repr__(self) -> str:
        """Leave out empty fields, and show the number of tasks instead of their names."""
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        shown |= {"tasks": f"{len(self.tasks)} names"} if self.tasks else {}
        shown |= {"untrained": f"{len(self.untrained)} names"} if self.untrained else {}
        shown = {name: value for name, value in shown.items() if name != "index_size" or value}
        given = ", ".join(f"{name}={value!r}" for name, value in shown.items() if value not in ((), "none"))
        return f"TaskSpec({given})"

    def union(self, other: TaskSpec) -> TaskSpec:
        """The spec of a learner that serves both, with the larger number of classes.

        Raises:
            ValueError: if the specs are not of one kind.
        """
        same = ("x_shape", "descriptor_size", "index_size", "tasks", "untrained")
        if any(getattr(self, name) != getattr(other, name) for name in same):
            raise ValueError(f"expected two samplers of one kind of task, got {self} and {other}")
        return replace(self, target=self.target.union(other.target))

    def scored_by(self, target: Target) -> TaskSpec:
        """The same tasks with another target, such as another likelihood, for the same y.

        Raises:
            ValueError: if y is not of the other target's kind and size.
        """
        if (target.layout, target.size) != (self.target.layout, self.target.size):
            raise ValueError(
                f"expected a target for the same y as {self.target!r}, got {target!r}; match kind and size"
            )
        return replace(self, target=target)

    def scaled_by(self, scale: Scale) -> TaskSpec:
        """The same tasks with another scale; "none" if neither x is a vector nor y real."""
        has_units = len(self.x_shape) < 3 or max(self.target.units, default=-1) >= 0
        return replace(self, scale=scale if has_units else "none")

    def covers(self, other: TaskSpec) -> bool:
        """Whether a learner with this spec serves tasks of the other: the kind of y matters, not its likelihood."""
        return self.union(other) == self

    def check_x(self, x: Tensor, mask: Tensor | None = None, *, values: bool = True) -> None:
        """Raise a ValueError unless x is `[T, N, *x_shape]` and, with `values`, finite wherever the mask is True."""
        if tuple(x.shape[2:]) != self.x_shape or x.ndim != 2 + len(self.x_shape):
            wanted = ", ".join(["T", "N", *map(str, self.x_shape)])
            raise ValueError(f"expected x of shape [{wanted}], got {kind_of(x)}; the learner was built for {self}")
        is_image = len(self.x_shape) == 3
        if not x.is_floating_point() and (x.dtype != torch.uint8 or not is_image):
            wanted = "uint8, or floats from 0 to 1" if is_image else "floats"
            mend = "turn numbers from 0 to 255 into bytes by .to(torch.uint8)" if is_image else "use .float()"
            raise ValueError(f"expected x as {wanted}, got {kind_of(x)}; {mend}")
        if values and x.is_floating_point():
            check_finite("x", x, mask)
            if is_image and x.numel():
                check_brightness(x, mask)

    def check(self, examples: Examples, descriptor: Tensor | None = None, *, values: bool = True) -> None:
        """Raise a ValueError unless the examples are of this kind.

        With `values`, also check the numbers for NaN, infinity and labels out of range. This waits for the device, so
        training skips it after the first batch.
        """
        self.check_x(examples.x, examples.mask, values=values)
        self.target.check(examples.y, examples.mask, values=values)
        wanted = (len(examples), self.descriptor_size)
        if (descriptor is not None or self.descriptor_size) and (
            descriptor is None or descriptor.shape != wanted or not descriptor.is_floating_point()
        ):
            expected = f"a descriptor of shape {list(wanted)} as floats" if self.descriptor_size else "no descriptor"
            got = "none" if descriptor is None else kind_of(descriptor)
            raise ValueError(f"expected {expected}, got {got}; the learner's spec has descriptor_size {wanted[1]}")
        if values and descriptor is not None:
            check_finite("descriptor", descriptor, None)
            index = descriptor[:, : self.index_size]
            if not bool((((index == 0) | (index == 1)).all(1) & (index.sum(1) <= 1)).all()):
                raise ValueError(
                    f"expected the first {self.index_size} numbers of a descriptor as the index of a trained task, "
                    "one-hot, or zeros if it is not told, got others; a task that was not trained has no index"
                )

    def check_episodes(self, episodes: Episodes) -> None:
        """Raise a ValueError unless the episodes are valid for this spec; reads every number."""
        self.check(episodes.support, episodes.descriptor)
        self.check(episodes.query, episodes.descriptor)
        if self.tasks and (
            episodes.task is None or not bool(((episodes.task >= 0) & (episodes.task < len(self.tasks))).all())
        ):
            got = "none" if episodes.task is None else f"{episodes.task.tolist()}"
            raise ValueError(f"expected task ids from 0 to {len(self.tasks) - 1} for the named tasks, got {got}")
        mask = episodes.classes
        if mask is not None:
            if not bool(mask.any(1).all()):
                raise ValueError("expected every task to have a class, got a row of classes without True")
            if mask.shape[1] > (most := self.target.n_classes or 0):
                raise ValueError(f"expected classes [T, at most {most}], got {kind_of(mask)} for {self.target!r}")
            for name, part in (("support", episodes.support), ("query", episodes.query)):
                y = part.y.clamp(0, mask.shape[1] - 1)
                missing = part.mask & (~mask.gather(1, y) | (part.y >= mask.shape[1]))
                if bool(missing.any()):
                    raise ValueError(
                        f"expected every {name} label in its task's label set, got {int(missing.sum())} outside"
                    )


def check_brightness(x: Tensor, mask: Tensor | None) -> None:
    """Raise a ValueError unless float images `[T, N, ...]` are from 0 to 1 wherever the mask is True."""
    real = x if mask is None else x[mask]
    low, high = (float(end) for end in real.aminmax()) if real.numel() else (0.0, 1.0)
    if low < 0 or high > 1:
        mend = "divide bytes by 255" if low >= 0 else "undo the standardisation, for backbones have their own"
        raise ValueError(
            f"expected images as uint8, or as floats from 0 to 1, got floats from {low:g} to {high:g}; {mend}"
        )
