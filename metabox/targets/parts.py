"""Targets with named parts, each of its own kind and size; a label that is missing is NaN, and is never guessed.

A target of parts is one tensor of floats `[T, N, K]`, each part's columns after the other. `join_parts` makes it and
`split_parts` takes it apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metabox.checks import check_fields
from metabox.ranges import Count, NotNegative
from metabox.targets.base import Target, task_mean


@dataclass(frozen=True)
class Part:
    """One named part of a target.

    Args:
        name: what scores and tables call it.
        target: its kind and size, `Classes(3)` say.
        spatial: (H, W) for a target at every pixel; () for one.
        weight: what its loss counts in the sum over parts.

    Raises:
        ValueError: if it has no name, or sizes below 1, or a weight below 0, or parts of its own.
    """

    name: str
    target: Target
    spatial: tuple[Count, ...] = ()
    weight: NotNegative = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.target.parts:
            raise ValueError(f"expected a kind of target for part {self.name!r}, as Classes(3), got {self.target!r}")
        if not self.name:
            raise ValueError("expected a name for a part, got an empty one; scores and tables are called by it")

    @property
    def size(self) -> int:
        """C, dy or L."""
        return self.target.size

    @property
    def places(self) -> int:
        """Pixels, or 1."""
        return math.prod(self.spatial)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one target: `(H, W)` or `()` for classes, `(dy, H, W)` or `(dy,)` for reals, likewise with L."""
        return (*self.target.shape, *self.spatial)

    @property
    def columns(self) -> int:
        """Numbers in one target."""
        return math.prod(self.shape)

    @property
    def label_size(self) -> int:
        """Numbers in one target as `encode` writes it."""
        return self.size * self.places + self.columns

    @property
    def n_params(self) -> int:
        """Natural parameters of one target: every number of it is predicted by itself."""
        return self.target.single.n_params * self.columns

    def encode(self, y: Tensor) -> Tensor:
        """Targets `[..., columns]` as a network's input `[..., label_size]`.

        First the values, zeros where they are missing, classes one-hot as `[C, *spatial]`; then which are there.
        """
        there = y.isfinite()
        values = self.target.expand(torch.where(there, y, 0.0))
        known = there.repeat(*[1] * (y.ndim - 1), values.shape[-1] // y.shape[-1])
        return torch.cat([(values * known).to(y.dtype), there.to(y.dtype)], dim=-1)

    def check(self, y: Tensor) -> None:
        """Raise a ValueError unless targets `[..., columns]` are NaN or what they should be."""
        y = y[~y.isnan()]
        wrong = self.target.wrong(y)
        if bool(wrong.any()):
            raise ValueError(
                f"expected {self.target.values} in part {self.name!r}, or NaN for a label that is missing, "
                f"got {float(y[wrong][0]):g} among {int(wrong.sum())} others"
            )


class Parts(Target):
    """Named parts, each with the likelihood of its kind; a label that is missing counts for nothing.

    log p = sum over parts of weight_j times the mean log p of the part's labels that are there: over pixels, and over
    the `size` of reals and binary labels, so that parts of many numbers do not drown parts of one. Its negative is the
    multi-task loss sum_j w_j L_j, and a log likelihood up to these weights. P holds the parts' parameters side by side,
    `part_params[j]` of them, each laid out as `[channels, *spatial]` (reals: the means, then the raw scales).

    Args:
        parts: one or more, of different names.

    Raises:
        ValueError: if there are none, or two of one name.
    """

    word = "columns of parts"

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names) or not names:
            raise ValueError(f"expected parts of different names, one at least, got {names}")
        super().__init__(sum(part.columns for part in self.parts))
        self.kinds = [part.target.single for part in self.parts]
        self.part_params = [part.n_params for part in self.parts]

    @property
    def n_params(self) -> int:
        return sum(self.part_params)

    @property
    def label_size(self) -> int:
        return sum(part.label_size for part in self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    @property
    def single(self) -> Target:
        raise ValueError("expected parts of single kinds, got parts within a part; name all of them side by side")

    @property
    def values(self) -> str:
        return "numbers of parts"

    @property
    def layout(self) -> tuple[object, ...]:
        return tuple((part.name, part.spatial, *part.target.layout) for part in self.parts)

    def wrong(self, y: Tensor) -> Tensor:
        return y.isinf()

    def check(self, y: Tensor, mask: Tensor, *, values: bool = True) -> None:
        if y.ndim != 3 or y.shape[2] != self.size:
            raise ValueError(f"expected y as floats [T, N, {self.size}], got {list(y.shape)}")
        if values:
            for part, column in zip(self.parts, self.split(y[mask]), strict=True):
                part.check(column)

    def encode(self, y: Tensor, mask: Tensor) -> Tensor:
        encoded = [part.encode(column) for part, column in zip(self.parts, self.split(y.float()), strict=True)]
        return torch.cat(encoded, dim=-1) * mask[..., None]

    def expand(self, values: Tensor) -> Tensor:
        return values

    def split(self, y: Tensor) -> tuple[Tensor, ...]:
        """The columns of each part: `[..., K]` -> as many `[..., part.columns]`."""
        columns: tuple[Tensor, ...] = y.split([part.columns for part in self.parts], dim=-1)
        return columns

    def log_probs(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Each part's mean log p of an example's labels `[T, M]`, NaN for an example without any."""
        return {
            part.name: _mean_of(kind.log_prob(p, label), there)
            for part, kind, p, label, there in self._numbers(params, y)
        }

    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        by_part = self.log_probs(params, y)
        return torch.stack([part.weight * by_part[part.name].nan_to_num(0.0) for part in self.parts]).sum(0)

    def losses(self, params: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each part's mean over a task's examples that have it, 0 for a task without any."""
        by_part = self.log_probs(params, y).items()
        losses = {name: task_mean(-log_prob, mask & ~log_prob.isnan()) for name, log_prob in by_part}
        return torch.stack([part.weight * losses[part.name] for part in self.parts]).sum(0), losses

    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        """`accuracy_NAME` or `squared_error_NAME` of each part, NaN for an example without a label of it."""
        return {
            f"{name}_{part.name}": _mean_of(values, there)
            for part, kind, p, label, there in self._numbers(params, y)
            for name, values in kind.scores(p, label).items()
        }

    def mixture(self, params: Tensor) -> Tensor:
        s, m = params.shape[1:3]
        mixed = []
        for part, kind, p in zip(self.parts, self.kinds, params.split(self.part_params, dim=-1), strict=True):
            one_by_one = p.unflatten(-1, (kind.n_params, part.columns)).transpose(-1, -2)  # [T, S, M, columns, P]
            one = kind.mixture(one_by_one.reshape(-1, s, m * part.columns, kind.n_params))
            mixed.append(one.unflatten(1, (m, part.columns)).transpose(-1, -2).flatten(2))
        return torch.cat(mixed, dim=-1)

    def _numbers(self, params: Tensor, y: Tensor) -> Iterator[tuple[Part, Target, Tensor, Tensor, Tensor]]:
        """Each part, its kind, and of all numbers of its targets one after the other the parameters and the label.

        And which labels are there, `[T, M, columns]`.
        """
        pieces = params.split(self.part_params, dim=-1)
        for part, kind, p, labels in zip(self.parts, self.kinds, pieces, self.split(y), strict=True):
            there = ~labels.isnan()
            label = torch.where(there, labels, 0.0).flatten(1)
            p = p.unflatten(-1, (kind.n_params, part.columns)).transpose(-1, -2).flatten(1, 2)
            yield part, kind, p, label[..., None] if kind.shape else label.long(), there


def _mean_of(values: Tensor, there: Tensor) -> Tensor:
    """The mean over the labels that are there: values `[T, M * columns]`, there `[T, M, columns]` -> `[T, M]`."""
    return torch.where(there, values.view(there.shape), 0.0).sum(-1) / there.sum(-1)


def split_parts(parts: Sequence[Part], y: Tensor) -> dict[str, Tensor]:
    """A target `[T, N, K]` -> each part's `[T, N, *part.shape]`.

    Raises:
        ValueError: if y has not as many columns as the parts.
    """
    if y.shape[-1] != sum(part.columns for part in parts):
        raise ValueError(f"expected y [T, N, {sum(part.columns for part in parts)}] for {parts}, got {list(y.shape)}")
    pieces = y.split([part.columns for part in parts], dim=-1)
    return {part.name: piece.unflatten(-1, part.shape or (1,)) if part.shape else piece.squeeze(-1)
            for part, piece in zip(parts, pieces, strict=True)}  # fmt: skip


def join_parts(parts: Sequence[Part], values: Mapping[str, Tensor]) -> Tensor:
    """Each part's targets `[T, N, *part.shape]` -> one target `[T, N, K]`; a part that is not given is missing.

    Raises:
        ValueError: if a name is not that of a part, or a shape does not fit.
    """
    names = [part.name for part in parts]
    if (unknown := sorted(set(values) - set(names))) or not values:
        raise ValueError(f"expected values of some of the parts {names}, got {unknown or 'none'}")
    lead = next(
        value.shape[: value.ndim - len(part.shape)] for part in parts if (value := values.get(part.name)) is not None
    )
    pieces = []
    for part in parts:
        value = values.get(part.name)
        if value is None:
            value = torch.full((*lead, *part.shape), math.nan, device=next(iter(values.values())).device)
        elif value.shape != (*lead, *part.shape):
            wanted = [*lead, *part.shape]
            raise ValueError(f"expected values of shape {wanted} for part {part.name!r}, got {list(value.shape)}")
        pieces.append(value.float().reshape(*lead, part.columns))
    return torch.cat(pieces, dim=-1)
