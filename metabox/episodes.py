"""What a task is: `Examples`, a batch of tasks `Episodes`, and the `TaskSpec` a learner is built from.

Axis 0 is always the task. Letters: T tasks, N support and M query examples (padded, with a
mask), C classes, P natural parameters per query point, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from metabox.config import Configured, identity
from metabox.parts import Part, check_parts

Split = Literal["train", "val", "test"]
Target = Literal["class", "real", "binary", "parts"]
Device = torch.device | str
Batch = TypeVar("Batch", "Examples", "Episodes")


def _shape(t: Tensor) -> str:
    return f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}"


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Labelled examples of T tasks, padded to the same N; `mask` tells which are real.

    x: `[T, N, *x_shape]`, images as uint8 `[T, N, channels, height, width]`
    y: `[T, N]` class ids (int64), `[T, N, dy]` reals, `[T, N, L]` binary labels or `[T, N, K]` named parts (floating
        point; see `metabox.parts`)
    mask: `[T, N]` bool, all True where it is not given

    Raises:
        ValueError: where the shapes, dtypes or devices do not fit together.
    """

    x: Tensor
    y: Tensor
    mask: Tensor = None  # type: ignore[assignment]  # filled in below

    def __post_init__(self) -> None:
        if self.x.ndim < 2:
            raise ValueError(
                f"expected x of shape [T, N, *x_shape], got {_shape(self.x)}; for a single task add an axis: x[None]"
            )
        t, n = self.x.shape[:2]
        if self.mask is None:
            object.__setattr__(self, "mask", torch.ones(t, n, dtype=torch.bool, device=self.x.device))
        if self.y.shape[:2] != (t, n) or self.y.ndim > 3:
            raise ValueError(
                f"expected y of shape [{t}, {n}] (class ids) or [{t}, {n}, size] to go with x {_shape(self.x)}, "
                f"got {_shape(self.y)}; axis 0 is the task, axis 1 the example"
            )
        if self.y.ndim == 2 and self.y.dtype != torch.int64:
            raise ValueError(
                f"expected class ids y [{t}, {n}] as int64, got {_shape(self.y)}; "
                "use y.long() for classes, y.unsqueeze(-1) for one real or binary target"
            )
        if self.y.ndim == 3 and not self.y.is_floating_point():
            raise ValueError(f"expected targets y [{t}, {n}, size] as floats, got {_shape(self.y)}; use y.float()")
        if self.mask.shape != (t, n) or self.mask.dtype != torch.bool:
            raise ValueError(f"expected mask as bool [{t}, {n}], got {_shape(self.mask)}; True marks a real example")
        if not self.x.device == self.y.device == self.mask.device:
            raise ValueError(
                f"expected x, y and mask on one device, got {self.x.device}, {self.y.device} and {self.mask.device}; "
                "build Examples first and move them together with .to(device)"
            )

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, index: slice | tuple[slice, slice]) -> Examples:
        """Some tasks `[i:j]`, or some tasks and examples `[i:j, k:l]`."""
        return Examples(x=self.x[index], y=self.y[index], mask=self.mask[index])

    def to(self, device: Device) -> Examples:
        return _to(self, device)

    def blanked(self) -> Examples:
        """The same with zeros in the padding, where a NaN or a label of -1 would else spread (images stay)."""
        y = torch.where(self.mask if self.y.ndim == 2 else self.mask[..., None], self.y, 0)
        x = self.x
        if x.is_floating_point():
            x = torch.where(self.mask.view(*self.mask.shape, *[1] * (x.ndim - 2)), x, 0)
        return replace(self, x=x, y=y)


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """A batch of T tasks: D_i^tr, D_i^test, and what else is known of each task.

    support: D_i^tr; N = 0 is legal
    query: D_i^test
    descriptor: z_i, `[T, dz]`
    class_mask: `[T, C]` bool, the classes that a task has (all of the learner's, where it is None)
    oracle: `[T]` best possible mean query log likelihood, nats
    origin: `[T, N + M]` ids of the source examples, -1 for padding: for audit only, no learner reads it
    task: `[T]` which of finitely many named tasks each is (int64): for weights and tables, no learner reads it

    Raises:
        ValueError: where the parts disagree about the number of tasks or the kind of example.
    """

    support: Examples
    query: Examples
    descriptor: Tensor | None = None
    class_mask: Tensor | None = None
    oracle: Tensor | None = None
    origin: Tensor | None = None
    task: Tensor | None = None

    def __post_init__(self) -> None:
        s, q = self.support, self.query
        same_kind = s.x.shape[2:] == q.x.shape[2:] and s.y.shape[2:] == q.y.shape[2:] and s.x.dtype == q.x.dtype
        if len(s) != len(q) or not same_kind:
            raise ValueError(
                f"expected support and query of the same tasks and kind, got x {_shape(s.x)} and {_shape(q.x)}, "
                f"y {_shape(s.y)} and {_shape(q.y)}; only axis 1 (the number of examples) may differ"
            )
        if s.x.device != q.x.device:
            raise ValueError(
                f"expected support and query on one device, got {s.x.device} and {q.x.device}; use .to(device)"
            )
        for name, ndim in (("descriptor", 2), ("class_mask", 2), ("oracle", 1), ("origin", 2), ("task", 1)):
            value = getattr(self, name)
            if value is not None and (value.ndim != ndim or len(value) != len(s)):
                raise ValueError(f"expected {name} of {ndim} axes, the first {len(s)} tasks long, got {_shape(value)}")
            if value is not None and value.device != s.x.device:
                raise ValueError(
                    f"expected {name} on {s.x.device} like the examples, got {value.device}; use .to(device)"
                )
        n = s.x.shape[1] + q.x.shape[1]
        if self.origin is not None and self.origin.shape[1] != n:
            raise ValueError(f"expected origin [T, N + M] with N + M = {n}, got {_shape(self.origin)}")
        if self.class_mask is not None and self.class_mask.dtype != torch.bool:
            raise ValueError(f"expected class_mask as bool [T, C], got {_shape(self.class_mask)}; use .bool()")

    def __len__(self) -> int:
        return len(self.support)

    def __getitem__(self, index: slice) -> Episodes:
        """The tasks `[i:j]`."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: part[index] for name, part in parts.items() if part is not None})

    def to(self, device: Device) -> Episodes:
        return _to(self, device)

    def blanked(self) -> Episodes:
        """The same with zeros in the padding; see `Examples.blanked`."""
        return replace(self, support=self.support.blanked(), query=self.query.blanked())


def _to(batch: Batch, device: Device) -> Batch:
    parts = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(batch, **{name: part.to(device) for name, part in parts.items() if part is not None})


@dataclass(frozen=True)
class TaskSpec:
    """What a learner must know to be built.

    x_shape: shape of one input; three axes mean an image `[channels, height, width]`
    target: "class" (one of C), "real" (a vector), "binary" (several yes/no labels) or "parts" (several of these)
    target_size: largest C, dy or L; the columns of y for parts, where it need not be given
    descriptor_size: dz, 0 where tasks carry no descriptor
    tasks: names of the tasks, where they are finitely many and known
    parts: the named parts of a target
    """

    x_shape: tuple[int, ...]
    target: Target
    target_size: int = 0
    descriptor_size: int = 0
    tasks: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        for name in ("x_shape", "tasks", "parts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.target not in ("class", "real", "binary", "parts"):
            raise ValueError(f'expected target "class", "real", "binary" or "parts", got {self.target!r}')
        if bool(self.parts) != (self.target == "parts"):
            raise ValueError(f'expected named parts with target "parts" and no other, got {self}')
        check_parts(self.parts)
        if self.parts and not self.target_size:
            object.__setattr__(self, "target_size", sum(part.columns for part in self.parts))
        if self.parts and self.target_size != sum(part.columns for part in self.parts):
            raise ValueError(f"expected target_size as the columns of all parts, got {self}; leave it out")
        if self.target_size < 1 or self.descriptor_size < 0 or any(size < 1 for size in self.x_shape):
            raise ValueError(
                f"expected sizes of at least 1 (descriptor_size: at least 0), got x_shape {self.x_shape}, "
                f"target_size {self.target_size}, descriptor_size {self.descriptor_size}"
            )

    def __repr__(self) -> str:
        """Without what is not there, and the number of tasks instead of all their names."""
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        shown |= {"tasks": f"{len(self.tasks)} names"} if self.tasks else {}
        given = ", ".join(f"{name}={value!r}" for name, value in shown.items() if value != ())
        return f"TaskSpec({given})"

    @property
    def label_size(self) -> int:
        """Numbers of one target as `metabox.nn.embedding.encode_labels` writes it."""
        return sum(part.label_size for part in self.parts) if self.parts else self.target_size

    def union(self, other: TaskSpec) -> TaskSpec:
        """The spec of a learner that serves both: the larger number of classes."""
        same = ("x_shape", "target", "descriptor_size", "tasks", "parts")
        if any(getattr(self, name) != getattr(other, name) for name in same):
            raise ValueError(f"expected two samplers of one kind of task, got {self} and {other}")
        if self.target != "class" and self.target_size != other.target_size:
            raise ValueError(f"expected targets of one size, got {self.target_size} and {other.target_size}")
        return replace(self, target_size=max(self.target_size, other.target_size))

    def check_x(self, x: Tensor, mask: Tensor | None = None, *, values: bool = True) -> None:
        """Raise a ValueError unless x is `[T, N, *x_shape]` and, with `values`, finite where the mask is True."""
        if tuple(x.shape[2:]) != self.x_shape or x.ndim != 2 + len(self.x_shape):
            wanted = ", ".join(["T", "N", *map(str, self.x_shape)])
            raise ValueError(f"expected x of shape [{wanted}], got {_shape(x)}; the learner was built for {self}")
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise ValueError(
                f"expected x as uint8 (images) or floats, got {_shape(x)}; use .to(torch.uint8) or .float()"
            )
        if values and x.is_floating_point():
            _check_finite("x", x, mask)

    def check(self, examples: Examples, descriptor: Tensor | None = None, *, values: bool = True) -> None:
        """Raise a ValueError unless the examples are of this kind.

        With `values`, also read the numbers: NaN, infinity and labels out of range. That waits
        for the device, so training skips it after the first batch.
        """
        self.check_x(examples.x, examples.mask, values=values)
        y = examples.y
        if self.target == "class":
            if y.ndim != 2:
                raise ValueError(f"expected class ids y as int64 [T, N], got {_shape(y)}; use y.argmax(-1) for one-hot")
            if values and y.numel():
                real = y[examples.mask]
                if real.numel() and not 0 <= int(real.min()) <= int(real.max()) < self.target_size:
                    raise ValueError(
                        f"expected class ids from 0 to {self.target_size - 1}, got {int(real.min())} to "
                        f"{int(real.max())}; number each task's classes from 0 and build the learner for enough of them"
                    )
        else:
            if y.ndim != 3 or y.shape[2] != self.target_size:
                raise ValueError(f"expected y as floats [T, N, {self.target_size}], got {_shape(y)}")
            if values and self.parts:
                columns = y[examples.mask].split([part.columns for part in self.parts], dim=-1)
                for part, column in zip(self.parts, columns, strict=True):
                    part.check(column)
            elif values:
                _check_finite("y", y, examples.mask)
                if self.target == "binary" and not bool(((y == 0) | (y == 1))[examples.mask].all()):
                    raise ValueError("expected binary labels of 0 and 1, got other values; threshold them first")
        wanted = (len(examples), self.descriptor_size)
        if (descriptor is not None or self.descriptor_size) and (
            descriptor is None or descriptor.shape != wanted or not descriptor.is_floating_point()
        ):
            expected = f"a descriptor of shape {list(wanted)} as floats" if self.descriptor_size else "no descriptor"
            got = "none" if descriptor is None else _shape(descriptor)
            raise ValueError(f"expected {expected}, got {got}; the learner's spec says descriptor_size")
        if values and descriptor is not None:
            _check_finite("descriptor", descriptor, None)

    def check_episodes(self, episodes: Episodes) -> None:
        """Raise a ValueError unless the episodes can be learned from; reads every number."""
        self.check(episodes.support, episodes.descriptor)
        self.check(episodes.query, episodes.descriptor)
        if self.tasks and (
            episodes.task is None or not bool(((episodes.task >= 0) & (episodes.task < len(self.tasks))).all())
        ):
            got = "none" if episodes.task is None else f"{episodes.task.tolist()}"
            raise ValueError(f"expected task ids from 0 to {len(self.tasks) - 1} for the named tasks, got {got}")
        mask = episodes.class_mask
        if mask is not None:
            if not bool(mask.any(1).all()):
                raise ValueError("expected every task to have a class, got a row of class_mask without True")
            if self.target != "class" or mask.shape[1] > self.target_size:
                raise ValueError(f"expected class_mask [T, at most {self.target_size}] for classes, got {_shape(mask)}")
            for name, part in (("support", episodes.support), ("query", episodes.query)):
                y = part.y.clamp(0, mask.shape[1] - 1)
                missing = part.mask & (~mask.gather(1, y) | (part.y >= mask.shape[1]))
                if bool(missing.any()):
                    raise ValueError(
                        f"expected every {name} label in its task's class_mask, got {int(missing.sum())} not"
                    )


def _check_finite(name: str, values: Tensor, mask: Tensor | None) -> None:
    finite = torch.isfinite(values).flatten(2).all(-1) if values.ndim > 2 else torch.isfinite(values)
    bad = ~finite if mask is None else ~finite & mask
    if bool(bad.any()):
        where = bad.nonzero()[0].tolist()
        raise ValueError(
            f"expected finite {name}, got NaN or infinity in {int(bad.sum())} places, "
            f"first at [task, position] {where}; drop those examples or mask them out"
        )


class EpisodeSampler(Configured, ABC):
    """p(T): where tasks come from."""

    data_arguments = ("path", "data_root", "on_device")
    spec: TaskSpec

    @abstractmethod
    def sample(
        self, index: int, n_tasks: int, *, split: Split, device: Device = "cpu", seed: int = 0, first: int = 0
    ) -> Episodes:
        """The tasks `first ... first + n_tasks - 1` of the endless list at (seed, split, index).

        A pure function of its arguments: the same ones give the same bits, on every device. An
        outer loop passes its step as `index` and `rank * n_tasks` as `first`, so ranks share one
        list and never overlap; an evaluation stays at index 0 and walks along `first`.
        """

    def identity(self) -> dict[str, object]:
        """What the tasks depend on, and so what a resumed run compares: the record of the arguments, and the data."""
        return {"data": self.fingerprint(), **identity(self.config)}

    def fingerprint(self) -> str:
        """Names the data behind the tasks, so that two results can be seen to stand on the same."""
        return f"{type(self).__name__} (generated)"
