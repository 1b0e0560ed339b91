"""Location 0 and scale 1: how a learner of numbers takes them in any unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.targets.spec import TaskSpec

X, Y = "scale.x", "scale.y"
"""The names in phi of a task's statistics, location then scale: `[T, 2, ...]`."""

ABSURD = 1e6
"""Scales from the location beyond which a number is refused."""
SAME_IN_TRAINING = 1e-6
"""The spread of numbers, as a share of their size, up to which the training tasks have one value."""
FARTHEST = 3.0
"""Scales of the training tasks from their location, at most, to the only value in a support."""


class Scaler(nn.Module):
    """Brings vectors x and real y to location 0 and scale 1, mean and population standard deviation.

    x has a statistic for each number (for `[channels, length]`, each channel), y for each real number (each channel of
    a part with spatial axes). Those of the training tasks are buffers, `x [2, D]` and `y [2, S]`: location, scale. With
    scale "support", those of a task's support take their place, where it has two different values. Where it has none or
    one, the training tasks' remain, their location moved so that the value is within 3 scales of it.

    Args:
        spec: of the learner.
    """

    x: Tensor
    y: Tensor
    columns: Tensor

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__()
        self.spec = spec
        units = spec.target.units
        self.of_x, self.of_y = len(spec.x_shape) < 3, max(units, default=-1) >= 0
        n = max(units, default=-1) + 1
        self.register_buffer("x", _standard(spec.x_shape[0] if self.of_x else 0))
        self.register_buffer("y", _standard(n))
        columns = torch.tensor([n if unit < 0 else unit for unit in units], dtype=torch.int64)
        self.register_buffer("columns", columns, persistent=False)

    @classmethod
    def of(cls, spec: TaskSpec) -> Scaler | None:
        """A scaler for the spec; None if it asks for none, or has neither vectors x nor real y."""
        return None if spec.scaled_by(spec.scale).scale == "none" else cls(spec)

    @torch.no_grad()
    def fit(self, examples: Iterable[Examples]) -> None:
        """Set the statistics of the training tasks, from all examples together; scale 1 for what never differs."""
        sums: dict[str, _Moments] = {}
        for part in examples:
            for name, (values, there, columns) in self._rows(part).items():
                one = _Moments.of(
                    values.flatten(0, 1)[None], there.flatten(0, 1)[None], columns, self._known(name).shape[1]
                )
                sums[name] = sums[name].plus(one) if name in sums else one
        for name, moments in sums.items():
            deviation = moments.deviation
            differs = deviation > SAME_IN_TRAINING * moments.mean.abs()
            self._known(name).copy_(torch.cat([moments.mean, torch.where(differs, deviation, 1)]))

    @torch.no_grad()
    def measure(self, support: Examples) -> dict[str, Tensor]:
        """What phi holds: the statistics of each task's support, or nothing."""
        if self.spec.scale != "support":
            return {}
        return {
            name: _of_support(
                _Moments.of(values, there, columns, self._known(name).shape[1]), self._known(name), values.dtype
            )
            for name, (values, there, columns) in self._rows(support).items()
        }

    def _known(self, name: str) -> Tensor:
        return self.x if name == X else self.y

    def examples(self, examples: Examples, phi: Mapping[str, Tensor], check: bool) -> Examples:
        """Examples at location 0 and scale 1 by the statistics in phi, or else in the buffers; zeros in the padding."""
        x, y, mask = examples.x, examples.y, examples.mask
        if self.of_x:
            x = self.inputs(x, phi, mask, check)
        if self.of_y:
            location, scale = self._label_units(phi, len(y))
            z = ((y - location[:, None]) / scale[:, None]).to(self.y.dtype)
            if check:
                self._check("y", y, z, mask[..., None], location[:, None], scale[:, None])
            y = torch.where(mask[..., None], z, 0)
        return replace(examples, x=x, y=y)

    def inputs(self, x: Tensor, phi: Mapping[str, Tensor], mask: Tensor | None, check: bool) -> Tensor:
        """x `[T, N, *x_shape]` likewise."""
        if not self.of_x:
            return x
        held = phi.get(X, self.x[None])
        location, scale = held.view(*held.shape, *[1] * (x.ndim - 3))[:, None].unbind(2)
        z = ((x - location) / scale).to(self.x.dtype)
        there = mask if mask is None else mask.view(*mask.shape, *[1] * (x.ndim - 2))
        if check:  # queries come without a mask, but zeros in their padding
            self._check("x", x, z, (x != 0) if there is None else there, location, scale)
        return z if there is None else torch.where(there, z, 0)

    def in_units(self, params: Tensor, phi: Mapping[str, Tensor]) -> Tensor:
        """Parameters `[T, ..., P]` of y from those of y at location 0 and scale 1; see `Target.in_units`."""
        if not self.of_y:
            return params
        lead = len(params), *[1] * (params.ndim - 2), -1
        location, scale = (part.view(*lead) for part in self._label_units(phi, len(params)))
        return self.spec.target.in_units(params, location, scale)

    def _label_units(self, phi: Mapping[str, Tensor], t: int) -> tuple[Tensor, Tensor]:
        """Location and scale of each number of y, `[T, K]`; 0 and 1 for one without a unit."""
        held = phi.get(Y, self.y.expand(t, -1, -1))
        location, scale = (F.pad(held[:, i], (0, 1), value=float(i)).index_select(1, self.columns) for i in (0, 1))
        return location, scale

    def _rows(self, examples: Examples) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Values `[T, R, K]`, which are there, and the statistic `[K]` of each."""
        rows = {}
        if self.of_x:
            x, d = examples.x, self.x.shape[1]
            values = x.flatten(3).movedim(2, -1).flatten(1, 2) if x.ndim > 3 else x
            repeats = x[0, 0, 0].numel() if x.ndim > 3 and x.shape[1] else 1
            there = examples.mask.repeat_interleave(repeats, dim=1)[..., None].expand_as(values)
            rows[X] = values, there, torch.arange(d, device=x.device)
        if self.of_y:
            rows[Y] = examples.y, examples.mask[..., None] & ~examples.y.isnan(), self.columns
        return rows

    def _check(self, name: str, given: Tensor, z: Tensor, there: Tensor, location: Tensor, scale: Tensor) -> None:
        absurd = (z.abs() > ABSURD) & there
        if not bool(absurd.any()):
            return
        location, scale = (part.expand_as(given)[absurd][0] for part in (location, scale))
        whose = "this task's support" if self.spec.scale == "support" else "the training tasks"
        raise ValueError(
            f"expected {name} within {ABSURD:g} scales of its location, got {float(given[absurd][0]):g}, where {whose} "
            f"had location {float(location):g} and scale {float(scale):g}; give it in their unit"
        )


def _rounding(dtype: torch.dtype) -> float:
    """The spread, as a share of their size, that equal numbers may have by rounding of their mean in float64."""
    return 1e-13 if dtype == torch.float64 else 1e-8


def _standard(n: int) -> Tensor:
    return torch.tensor([[0.0], [1.0]]).repeat(1, n)


def _pooled(values: Tensor, columns: Tensor, n: int) -> Tensor:
    """Sums `[T, n]` of `[T, K]` over the columns of each statistic."""
    return values.new_zeros(len(values), n + 1).index_add(1, columns, values)[:, :n]


class _Moments(NamedTuple):
    """Count, mean and sum of squared deviations, each `[T, S]`, float64."""

    n: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, values: Tensor, there: Tensor, columns: Tensor, n: int) -> _Moments:
        """Those of the rows of each task: values `[T, R, K]`, of which `columns [K]` says the statistic; n is none."""
        own = values.double()
        count = _pooled(there.sum(1).double(), columns, n)
        mean = _pooled(torch.where(there, own, 0).sum(1), columns, n) / count.clamp(min=1)
        spread = own - F.pad(mean, (0, 1)).index_select(1, columns)[:, None]
        return cls(count, mean, _pooled(torch.where(there, spread, 0).square().sum(1), columns, n))

    def plus(self, other: _Moments) -> _Moments:
        """Those of both together (Chan et al. 1979)."""
        count, apart = self.n + other.n, other.mean - self.mean
        share = other.n / count.clamp(min=1)
        return _Moments(
            count, self.mean + apart * share, self.squares + other.squares + apart.square() * self.n * share
        )

    @property
    def deviation(self) -> Tensor:
        return (self.squares / self.n.clamp(min=1)).sqrt()


def _of_support(moments: _Moments, known: Tensor, dtype: torch.dtype) -> Tensor:
    """The statistics of each task `[T, 2, S]` for numbers of a type; `known [2, S]` are those of the training tasks.

    In float64 for float64, since float32 cannot tell a number of 1e9 from the next in its own unit.
    """
    location, scale = known.double()
    mean, deviation = moments.mean, moments.deviation
    several = deviation > _rounding(dtype) * mean.abs()
    moved = mean - ((mean - location) / scale).clamp(-FARTHEST, FARTHEST) * scale
    location = torch.where(several, mean, torch.where(moments.n > 0, moved, location))
    dtype = torch.promote_types(dtype, torch.float32)
    scale = torch.where(several, deviation, scale).clamp(min=torch.finfo(dtype).tiny)
    return torch.stack([location, scale], dim=1).to(dtype)
