"""Targets with named parts, each of its own kind and size; a label that is missing is NaN, and is never guessed.

A target of parts is one tensor of floats `[T, N, K]`, each part's columns after the other. `join_parts` makes it and
`split_parts` takes it apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """One named part of a target.

    Args:
        name: what scores and tables call it.
        target: "class" (one of C), "real" (a vector) or "binary" (several yes/no labels).
        size: C, dy or L.
        spatial: (H, W) for a target at every pixel; () for one.
        weight: what its loss counts in the sum over parts.
    """

    name: str
    target: Literal["class", "real", "binary"]
    size: int
    spatial: tuple[int, ...] = ()
    weight: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "spatial", tuple(self.spatial))
        if self.target not in ("class", "real", "binary"):
            raise ValueError(f'expected target "class", "real" or "binary" for part {self.name!r}, got {self.target!r}')
        if not self.name or self.size < 1 or any(side < 1 for side in self.spatial) or not self.weight >= 0:
            raise ValueError(f"expected a part with a name, sizes of at least 1 and a weight of at least 0, got {self}")

    @property
    def places(self) -> int:
        """Pixels, or 1."""
        return math.prod(self.spatial)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one target: `(H, W)` or `()` for classes, `(dy, H, W)` or `(dy,)` for reals, likewise with L."""
        return self.spatial if self.target == "class" else (self.size, *self.spatial)

    @property
    def columns(self) -> int:
        """Numbers in one target."""
        return math.prod(self.shape)

    @property
    def label_size(self) -> int:
        """Numbers in one target as `encode` writes it."""
        return self.size * self.places + self.columns

    def encode(self, y: Tensor) -> Tensor:
        """Targets `[..., columns]` as a network's input `[..., label_size]`.

        First the values, zeros where they are missing, classes one-hot as `[C, *spatial]`; then which are there.
        """
        there = y.isfinite()
        values = torch.where(there, y, 0.0)
        if self.target == "class":
            hot = torch.nn.functional.one_hot(values.long(), self.size).transpose(-1, -2)
            values = (hot * there[..., None, :]).flatten(-2)
        return torch.cat([values.to(y.dtype), there.to(y.dtype)], dim=-1)

    def check(self, y: Tensor) -> None:
        """Raise a ValueError unless targets `[..., columns]` are NaN or what they should be."""
        y = y[~y.isnan()]
        wrong = y.isinf() if self.target == "real" else (y < 0) | (y != y.floor())
        if self.target != "real":
            wrong |= y >= (self.size if self.target == "class" else 2)
        if bool(wrong.any()):
            kinds = {
                "class": f"class ids from 0 to {self.size - 1}",
                "binary": "labels of 0 and 1",
                "real": "finite numbers",
            }
            raise ValueError(
                f"expected {kinds[self.target]} in part {self.name!r}, or NaN where a label is missing, "
                f"got {float(y[wrong][0]):g} among {int(wrong.sum())} others"
            )


def check_parts(parts: Sequence[Part]) -> None:
    """Raise a ValueError unless the names differ."""
    names = [part.name for part in parts]
    if len(set(names)) < len(names):
        raise ValueError(f"expected parts of different names, got {names}")


def split_parts(parts: Sequence[Part], y: Tensor) -> dict[str, Tensor]:
    """A target `[T, N, K]` -> each part's `[T, N, *part.shape]`.

    Raises:
        ValueError: where y has not as many columns as the parts.
    """
    if y.shape[-1] != sum(part.columns for part in parts):
        raise ValueError(f"expected y [T, N, {sum(part.columns for part in parts)}] for {parts}, got {list(y.shape)}")
    pieces = y.split([part.columns for part in parts], dim=-1)
    return {part.name: piece.unflatten(-1, part.shape or (1,)) if part.shape else piece.squeeze(-1)
            for part, piece in zip(parts, pieces, strict=True)}  # fmt: skip


def join_parts(parts: Sequence[Part], values: Mapping[str, Tensor]) -> Tensor:
    """Each part's targets `[T, N, *part.shape]` -> one target `[T, N, K]`; a part that is not given is missing.

    Raises:
        ValueError: where a name is not that of a part, or a shape does not fit.
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
