"""Targets with named parts, each with its kind and size; a missing label is NaN, and is never imputed.

A target with parts is one tensor of floats `[T, N, K]`, the columns of one part after another. `join_parts` makes it
and `split_parts` takes it apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metabox.checks import check_fields
from metabox.ranges import Count, NotNegative
from metabox.targets.base import Target, task_mean


@dataclass(frozen=True)
class Part:
    """One named part of a target.

    Args:
        name: its name in scores and tables.
        target: its kind and size, such as `Classes(3)`.
        spatial: (H, W) for a target at every pixel; () for a single one.
        weight: of its loss in the sum over parts.

    Raises:
        ValueError: if the name is empty, a size is below 1, the weight is below 0, or the target has parts.
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
        """Number of pixels, 1 without spatial axes."""
        return math.prod(self.spatial)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one target: `(H, W)` or `()` for classes, `(dy, H, W)` or `(dy,)` for reals, L for labels."""
        return (*self.target.shape, *self.spatial)

    @property
    def columns(self) -> int:
        """Numbers in one target."""
        return math.prod(self.shape)

    @property
    def label_size(self) -> int:
        """Numbers in one encoded target; see `encode`."""
        return self.size * self.places + self.columns

    @property
    def elements(self) -> int:
        """What is predicted separately: each number of one target, or each vector if its kind is of vectors."""
        return self.columns // math.prod(self.target.single.shape)

    @property
    def n_params(self) -> int:
        """Natural parameters of one target."""
        return self.target.single.n_params * self.elements

    def encode(self, y: Tensor) -> Tensor:
        """Targets `[..., columns]` as network input `[..., label_size]`.

        First the values, with zeros for missing ones and classes one-hot as `[C, *spatial]`; then which are present.
        """
        there = y.isfinite()
        values = self.target.expand(torch.where(there, y, 0.0))
        known = there.repeat(*[1] * (y.ndim - 1), values.shape[-1] // y.shape[-1])
        return torch.cat([(values * known).to(y.dtype), there.to(y.dtype)], dim=-1)

    def check(self, y: Tensor) -> None:
        """Raise a ValueError unless targets `[..., columns]` are NaN or valid."""
        y = y[~y.isnan()]
        wrong = self.target.wrong(y)
        if bool(wrong.any()):
            raise ValueError(
                f"expected {self.target.values} in part {self.name!r}, or NaN for a label that is missing, "
                f"got {float(y[wrong][0]):g} among {int(wrong.sum())} others"
            )


class Parts(Target):
    """Named parts, each with the likelihood of its kind; missing labels are ignored.

    log p = sum over parts of weight_j times the mean log p of the part's labels that are present: over pixels, and over
    the `size` of reals and binary labels, so that parts of many numbers do not dominate parts of one. This is a log
    likelihood up to the weights. The multi-task loss is sum_j w_j L_j likewise, with L_j the mean of the kind's `loss`.
    P concatenates the parts' parameters, `part_params[j]` each, laid out as `[channels, *spatial]` (reals: the means,
    then the raw scales).

    Args:
        parts: one or more, with different names.

    Raises:
        ValueError: if there are none, or two with the same name.
    """

    word = "columns of parts"

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names) or not names:
            raise ValueError(f"expected parts of different names, one at least, got {names}")
        super().__init__(sum(part.columns for part in self.parts))
        self.has_density = all(part.target.has_density for part in self.parts)
        self.kinds = [part.target.single for part in self.parts]
        self.part_params = [part.n_params for part in self.parts]

    @property
    def n_params(self) -> int:
        return sum(self.part_params)

    @property
    def units(self) -> tuple[int, ...]:
        found: list[int] = []
        for part in self.parts:
            first = max(found, default=-1) + 1
            ids = part.target.units or (-1,) * (part.columns // part.places)
            found += [first + i if i >= 0 else -1 for i in ids for _ in range(part.places)]
        return tuple(found)

    def in_units(self, params: Tensor, location: Tensor, scale: Tensor) -> Tensor:
        columns = [part.columns for part in self.parts]
        pieces = [part.split(columns, dim=-1) for part in (location, scale)]
        own = params.split(self.part_params, dim=-1)
        joined = [
            torch.cat([p.float(), *(value.expand(*p.shape[:-1], -1) for value in unit)], -1)
            if max(kind.units, default=-1) >= 0
            else p
            for kind, p, unit in zip(self.kinds, own, zip(*pieces, strict=True), strict=True)
        ]
        return torch.cat(joined, dim=-1)

    def split_params(self, params: Tensor) -> tuple[Tensor, ...]:
        """The parameters of each part, with location and scale if they have been put in units: `[..., P_j]` each."""
        if params.shape[-1] == self.n_params:
            widths = self.part_params
        else:
            widths = [
                n + 2 * part.columns if max(kind.units, default=-1) >= 0 else n
                for n, part, kind in zip(self.part_params, self.parts, self.kinds, strict=True)
            ]
        pieces: tuple[Tensor, ...] = params.split(widths, dim=-1)
        return pieces

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
        """Mean log p of an example's labels in each part `[T, M]`, NaN for an example without any."""
        return self._by_part("log_prob", params, y)

    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        return self._sum(_known(self.log_probs(params, y)))

    def loss(self, params: Tensor, y: Tensor) -> Tensor:
        return self._sum(_known(self._by_part("loss", params, y)))

    def error(self, params: Tensor, y: Tensor) -> Tensor:
        return self._sum(_known(self._by_part("error", params, y)))

    def nll(self, params: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        return -self._sum(_task_means(self.log_probs(params, y), mask))

    def losses(
        self, params: Tensor, y: Tensor, mask: Tensor, of: Literal["loss", "error"] = "loss"
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each part's mean over the examples of a task that have it, 0 if none has."""
        by_part = _task_means(self._by_part(of, params, y), mask)
        return self._sum(by_part), by_part

    def _by_part(self, of: Literal["log_prob", "loss", "error"], params: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The mean over an example's labels of a method of each part's kind, `[T, M]`, NaN for an example without."""
        return {
            part.name: _mean_of(getattr(kind, of)(p, label), there)
            for part, kind, p, label, there in self._numbers(params, y)
        }

    def _sum(self, by_part: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([part.weight * by_part[part.name] for part in self.parts]).sum(0)

    def counts(self, y: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {
            part.name: (mask & ~column.isnan().all(-1)).sum(1).float()
            for part, column in zip(self.parts, self.split(y), strict=True)
        }

    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        """`accuracy_NAME` or `squared_error_NAME` of each part, NaN for an example without that label."""
        return {
            f"{name}_{part.name}": _mean_of(values, there)
            for part, kind, p, label, there in self._numbers(params, y)
            for name, values in kind.scores(p, label).items()
        }

    def answers(self, params: Tensor) -> dict[str, Tensor]:
        """Each part's `Target.answer`: `[..., C, *spatial]` of classes, `[..., size, *spatial]` of others."""
        found = {}
        for part, kind, p in zip(self.parts, self.kinds, self.split_params(params), strict=True):
            one = kind.answer(p.unflatten(-1, (-1, part.elements)).transpose(-1, -2)).transpose(-1, -2).flatten(-2)
            found[part.name] = one.unflatten(-1, (part.size, *part.spatial))
        return found

    def answer(self, params: Tensor) -> Tensor:
        return torch.cat([one.flatten(params.ndim - 1) for one in self.answers(params).values()], dim=-1)

    def ranked(self, params: Tensor, y: Tensor, mask: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        pieces = zip(self.parts, self.split_params(params), self.split(y), strict=True)
        found = {part.name: part.target.ranked(p, label, mask) for part, p, label in pieces if not part.spatial}
        return {name: own[""] for name, own in found.items() if own}

    def mixture(self, params: Tensor, weights: Tensor | None = None) -> Tensor:
        s, m = params.shape[1:3]
        mixed = []
        for part, kind, p in zip(self.parts, self.kinds, self.split_params(params), strict=True):
            one_by_one = p.unflatten(-1, (-1, part.elements)).transpose(-1, -2)  # [T, S, M, elements, P]
            one = kind.mixture(one_by_one.reshape(-1, s, m * part.elements, one_by_one.shape[-1]), weights)
            mixed.append(one.unflatten(1, (m, part.elements)).transpose(-1, -2).flatten(2))
        return torch.cat(mixed, dim=-1)

    def _numbers(self, params: Tensor, y: Tensor) -> Iterator[tuple[Part, Target, Tensor, Tensor, Tensor]]:
        """Each part, its kind, the parameters and labels of all elements of its targets in sequence.

        And which labels are present, `[T, M, elements]`.
        """
        pieces = self.split_params(params)
        for part, kind, p, labels in zip(self.parts, self.kinds, pieces, self.split(y), strict=True):
            labels = labels.unflatten(-1, (-1, part.elements)).transpose(-1, -2)  # [T, M, elements, numbers]
            there = ~labels.isnan().any(-1)
            label = torch.where(there[..., None], labels, 0.0).flatten(1, 2)
            p = p.unflatten(-1, (-1, part.elements)).transpose(-1, -2).flatten(1, 2)
            yield part, kind, p, label if kind.shape else label.squeeze(-1).long(), there


def _mean_of(values: Tensor, there: Tensor) -> Tensor:
    """The mean over the labels that are present: values `[T, M * elements]`, there `[T, M, elements]` -> `[T, M]`."""
    return torch.where(there, values.view(there.shape), 0.0).sum(-1) / there.sum(-1)


def _known(by_part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.nan_to_num(0.0) for name, values in by_part.items()}


def _task_means(by_part: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    return {name: task_mean(values, mask & ~values.isnan()) for name, values in by_part.items()}


def split_parts(parts: Sequence[Part], y: Tensor) -> dict[str, Tensor]:
    """A target `[T, N, K]` -> each part's `[T, N, *part.shape]`.

    Raises:
        ValueError: if y does not have as many columns as the parts.
    """
    if y.shape[-1] != sum(part.columns for part in parts):
        raise ValueError(f"expected y [T, N, {sum(part.columns for part in parts)}] for {parts}, got {list(y.shape)}")
    pieces = y.split([part.columns for part in parts], dim=-1)
    return {part.name: piece.unflatten(-1, part.shape or (1,)) if part.shape else piece.squeeze(-1)
            for part, piece in zip(parts, pieces, strict=True)}  # fmt: skip


def join_parts(parts: Sequence[Part], values: Mapping[str, Tensor]) -> Tensor:
    """Each part's targets `[T, N, *part.shape]` -> one target `[T, N, K]`, NaN for parts that are not given.

    Raises:
        ValueError: if a name is not one of the parts', or a shape does not fit.
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
