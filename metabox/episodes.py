"""What a task is: `Examples`, and a batch of tasks, `Episodes`.

Axis 0 is always the task. Letters: T tasks, N support and M query examples (padded, with a
mask), C classes, P natural parameters per query point, D features.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from metabox.checks import kind_of, shown
from metabox.inputs import device_of, tensor_of
from metabox.targets import TaskSpec

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Device = torch.device | str
Batch = TypeVar("Batch", "Examples", "Episodes")


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Labelled examples of T tasks, padded to the same N; `mask` tells which are real.

    x: `[T, N, *x_shape]`, images as uint8 `[T, N, channels, height, width]`
    y: `[T, N]` class ids (int64), `[T, N, dy]` reals, `[T, N, L]` binary labels or `[T, N, K]` named parts (floating
        point; see `metabox.targets.parts`)
    mask: `[T, N]` bool, all True if it is not given

    Raises:
        ValueError: if the shapes, dtypes or devices do not fit together.
    """

    x: Tensor
    y: Tensor
    mask: Tensor = None  # type: ignore[assignment]  # filled in below

    def __post_init__(self) -> None:
        for name, axes in (("x", "[T, N, *x_shape]"), ("y", "[T, N] or [T, N, size]"), ("mask", "[T, N]")):
            if not isinstance(value := getattr(self, name), Tensor) and (value is not None or name != "mask"):
                object.__setattr__(self, name, tensor_of(name, value, axes))
        if self.x.ndim < 2:
            raise ValueError(
                f"expected x of shape [T, N, *x_shape], got {kind_of(self.x)}; for a single task add an axis: x[None]"
            )
        t, n = self.x.shape[:2]
        if self.mask is None:
            object.__setattr__(self, "mask", torch.ones(t, n, dtype=torch.bool, device=self.x.device))
        if self.y.shape[:2] != (t, n) or self.y.ndim > 3:
            raise ValueError(
                f"expected y of shape [{t}, {n}] (class ids) or [{t}, {n}, size] to go with x {kind_of(self.x)}, "
                f"got {kind_of(self.y)}; axis 0 is the task, axis 1 the example"
            )
        if self.y.ndim == 2 and self.y.dtype != torch.int64:
            raise ValueError(
                f"expected class ids y [{t}, {n}] as int64, got {kind_of(self.y)}; "
                "use y.long() for classes, y.unsqueeze(-1) for one real or binary target"
            )
        if self.y.ndim == 3 and not self.y.is_floating_point():
            raise ValueError(f"expected targets y [{t}, {n}, size] as floats, got {kind_of(self.y)}; use y.float()")
        if self.mask.shape != (t, n) or self.mask.dtype != torch.bool:
            raise ValueError(f"expected mask as bool [{t}, {n}], got {kind_of(self.mask)}; True marks a real example")
        if not self.x.device == self.y.device == self.mask.device:
            raise ValueError(
                f"expected x, y and mask on one device, got {self.x.device}, {self.y.device} and {self.mask.device}; "
                "build Examples first and move them together with .to(device)"
            )

    def __len__(self) -> int:
        return self.x.shape[0]

    def __repr__(self) -> str:
        return f"Examples(x={kind_of(self.x)}, y={kind_of(self.y)}, mask={kind_of(self.mask)})"

    def __getitem__(self, index: slice | tuple[slice, slice]) -> Examples:
        """Some tasks `[i:j]`, or some tasks and examples `[i:j, k:l]`."""
        return Examples(x=self.x[index], y=self.y[index], mask=self.mask[index])

    def to(self, device: Device) -> Examples:
        return _to(self, device)

    def blanked(self) -> Examples:
        """The same with zeros in the padding, so that a NaN or a label of -1 cannot spread; uint8 images stay."""
        y = torch.where(self.mask if self.y.ndim == 2 else self.mask[..., None], self.y, 0)
        x = self.x
        if x.is_floating_point():
            x = torch.where(self.mask.view(*self.mask.shape, *[1] * (x.ndim - 2)), x, 0)
        return replace(self, x=x, y=y)


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """A batch of T tasks: D_i^tr, D_i^test, and what else is known about each task.

    support: D_i^tr; N = 0 is legal
    query: D_i^test
    descriptor: z_i, `[T, dz]`
    classes: `[T, up to C]` bool, the label set of each task, if targets are classes; None means all C
    oracle: `[T]` best possible mean query log likelihood, nats
    origin: `[T, N + M]` ids of the source examples, -1 for padding: for audit only, no learner reads it
    task: `[T]` index of each task among finitely many named ones (int64): for weights and tables, no learner reads it

    Raises:
        ValueError: if the parts disagree about the number of tasks or the kind of example.
    """

    support: Examples
    query: Examples
    descriptor: Tensor | None = None
    classes: Tensor | None = None
    oracle: Tensor | None = None
    origin: Tensor | None = None
    task: Tensor | None = None

    def __post_init__(self) -> None:
        s, q = self.support, self.query
        if not isinstance(s, Examples) or not isinstance(q, Examples):
            raise ValueError(f"expected support and query as Examples(x=..., y=...), got {shown(s)} and {shown(q)}")
        same_kind = s.x.shape[2:] == q.x.shape[2:] and s.y.shape[2:] == q.y.shape[2:] and s.x.dtype == q.x.dtype
        if len(s) != len(q) or not same_kind:
            raise ValueError(
                f"expected support and query of the same tasks and kind, got x {kind_of(s.x)} and {kind_of(q.x)}, "
                f"y {kind_of(s.y)} and {kind_of(q.y)}; only axis 1 (the number of examples) may differ"
            )
        if s.x.device != q.x.device:
            raise ValueError(
                f"expected support and query on one device, got {s.x.device} and {q.x.device}; use .to(device)"
            )
        for name, ndim in (("descriptor", 2), ("classes", 2), ("oracle", 1), ("origin", 2), ("task", 1)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Tensor):
                value = tensor_of(name, value, f"of {ndim} axes")
                object.__setattr__(self, name, value)
            if value is not None and (value.ndim != ndim or len(value) != len(s)):
                raise ValueError(f"expected {name} of {ndim} axes, the first {len(s)} tasks long, got {kind_of(value)}")
            if value is not None and value.device != s.x.device:
                raise ValueError(
                    f"expected {name} on {s.x.device} like the examples, got {value.device}; use .to(device)"
                )
        n = s.x.shape[1] + q.x.shape[1]
        if self.origin is not None and self.origin.shape[1] != n:
            raise ValueError(f"expected origin [T, N + M] with N + M = {n}, got {kind_of(self.origin)}")
        if self.classes is not None and self.classes.dtype != torch.bool:
            raise ValueError(f"expected classes as bool [T, C], got {kind_of(self.classes)}; use .bool()")

    def __len__(self) -> int:
        return len(self.support)

    def __repr__(self) -> str:
        extra = [f.name for f in fields(self)[2:] if getattr(self, f.name) is not None]
        n, m = (list(part.mask.shape)[1] for part in (self.support, self.query))
        return (
            f"Episodes({len(self)} tasks, {n} support and {m} query examples, x {kind_of(self.query.x)}"
            f"{', '.join(['', *extra])})"
        )

    def label_set(self, spec: TaskSpec) -> Tensor | None:
        """`classes` for a learner's `adapt`: all C of the spec if no label sets are given, None without classes."""
        if self.classes is None and spec.target.n_classes is not None:
            return self.support.mask.new_ones(len(self), spec.target.n_classes)
        return self.classes

    def __getitem__(self, index: slice) -> Episodes:
        """The tasks `[i:j]`."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: part[index] for name, part in parts.items() if part is not None})

    def to(self, device: Device) -> Episodes:
        return _to(self, device)

    def blanked(self) -> Episodes:
        """The same with zeros in the padding; see `Examples.blanked`."""
        return replace(self, support=self.support.blanked(), query=self.query.blanked())


def moved(tensor: Tensor, device: Device) -> Tensor:
    """A tensor on a device. The host does not wait for a copy to a GPU, which precedes what the GPU does next."""
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


def _to(batch: Batch, device: Device) -> Batch:
    device = device_of(device)
    parts = {f.name: getattr(batch, f.name) for f in fields(batch)}
    there: dict[str, Any] = {
        name: moved(part, device) if isinstance(part, Tensor) else part.to(device)
        for name, part in parts.items()
        if part is not None
    }
    return replace(batch, **there)
