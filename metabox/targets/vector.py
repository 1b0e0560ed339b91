"""Targets that are vectors of numbers."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from metabox.targets.base import Target


class Vector(Target):
    """y `[T, N, size]` as floats: the base of all targets that are vectors."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    @property
    def units(self) -> tuple[int, ...]:
        return (-1,) * self.size

    def check(self, y: Tensor, mask: Tensor, *, values: bool = True) -> None:
        if y.ndim != 3 or y.shape[2] != self.size:
            raise ValueError(f"expected y as floats [T, N, {self.size}], got {list(y.shape)}")
        if values:
            check_finite("y", y, mask)
            if bool((wrong := self.wrong(y) & mask[..., None]).any()):
                raise ValueError(
                    f"expected {self.values}, got {float(y[wrong][0]):g} among {int(wrong.sum())} others; "
                    "threshold them first"
                )

    def encode(self, y: Tensor, mask: Tensor) -> Tensor:
        return y.float() * mask[..., None]

    def expand(self, values: Tensor) -> Tensor:
        return values


class RealVector(Vector):
    """Real numbers, whose parameters may be followed by a location and a scale of each; see `Target.in_units`."""

    word = "reals"

    @property
    @abstractmethod
    def n_params(self) -> int:
        """P, without location and scale."""

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """`[..., P]` -> `[..., dy]`."""

    def answer(self, params: Tensor) -> Tensor:
        return self.mean(params)

    @abstractmethod
    def std(self, params: Tensor) -> Tensor:
        """The standard deviation of each number of y: `[..., P]` -> `[..., dy]`."""

    @abstractmethod
    def quantile(self, params: Tensor, q: float | Tensor) -> Tensor:
        """The q-quantile of each number of y, 0 < q < 1: `[..., P]`, q one number or `[..., dy]` -> `[..., dy]`.

        Raises:
            ValueError: if q is not between 0 and 1.
        """

    @property
    def values(self) -> str:
        return "finite numbers"

    @property
    def layout(self) -> tuple[object, ...]:
        return ("reals", *self.shape)

    def wrong(self, y: Tensor) -> Tensor:
        return y.isinf()

    @property
    def units(self) -> tuple[int, ...]:
        return tuple(range(self.size))

    def in_units(self, params: Tensor, location: Tensor, scale: Tensor) -> Tensor:
        lead = params.shape[:-1]
        return torch.cat([params.float(), location.expand(*lead, -1), scale.expand(*lead, -1)], dim=-1)

    def standard(self, params: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        own, units = self.split_units(params)
        return own, (y if units is None else (y - units[0]) / units[1]).float()

    def split_units(self, params: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Parameters `[..., P]`; and location and scale, each `[..., dy]`, or None if there are none."""
        if params.shape[-1] == self.n_params:
            return params, None
        own, location, scale = params.split([self.n_params, self.size, self.size], dim=-1)
        return own, (location, scale)


def quantiles_of(q: float | Tensor, like: Tensor) -> Tensor:
    """q as a tensor of the shape of `like`; a ValueError if it is not between 0 and 1."""
    q = torch.as_tensor(q, dtype=like.dtype, device=like.device)
    if not bool(((q > 0) & (q < 1)).all()):
        raise ValueError(f"expected q between 0 and 1, got {q.flatten()[0]:g}")
    return q.expand_as(like)


def check_finite(name: str, values: Tensor, mask: Tensor | None) -> None:
    """Raise a ValueError unless the numbers `[T, N, ...]`, or `[T, ...]` without a mask, are finite."""
    finite = torch.isfinite(values).flatten(2).all(-1) if values.ndim > 2 else torch.isfinite(values)
    bad = ~finite if mask is None else ~finite & mask
    if bool(bad.any()):
        where = bad.nonzero()[0].tolist()
        raise ValueError(
            f"expected finite {name}, got NaN or infinity in {int(bad.sum())} places, "
            f"first at [task, position] {where}; drop those examples or mask them out"
        )
