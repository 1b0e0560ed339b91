"""Cells of tables as features: columns at one scale by the support, missing values filled, and what was missing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metabox.nn.sets import one_hot

KNOTS = 33
BUMPS = 8
FEATURES = 3 + BUMPS
"""Numbers that describe a cell."""
NEIGHBOURS = 1, 3
"""Places after a column's own; with these, no two of seven columns or more stand beside each other twice."""
SOFT = 5.0
"""Standard deviations beyond which numbers are drawn in."""
SAME = 1e-5
"""Standard deviations within which a number is one of the quantiles, so that rounding to float32 moves no cell."""
MISSING = -1
"""The rank of a missing cell."""


class CellFeatures(nn.Module):
    """Cells to numbers that do not depend on the unit of a column.

    A column is described by its support: mean and standard deviation, and quantiles. A cell becomes its distance from
    the mean, drawn in if it is far; its place among the quantiles, from -1 to 1, and as bumps around `BUMPS` places;
    and whether it is missing, in which case the others are 0. A column without a value in the support is one that the
    table does not have.
    """

    def measure(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """What phi holds of the columns of a support: x `[T, N, D]`, NaN if missing, mask `[T, N]`.

        Returns:
            moments `[T, 2, D]`, knots `[T, D, KNOTS]`, exists `[T, D]`.
        """
        there = mask[..., None] & ~x.isnan()
        count = there.sum(1)
        values = torch.where(there, x, 0)
        mean = values.sum(1) / count.clamp(min=1)
        spread = torch.where(there, x - mean[:, None], 0)
        deviation = (spread.square().sum(1) / count.clamp(min=1)).sqrt()
        constant = deviation <= 1e-6 * mean.abs()
        deviation = torch.where(constant, 1, deviation)
        if x.shape[1]:
            ordered = torch.where(there, x, torch.inf).sort(1).values.transpose(1, 2)  # [T, D, N]
            place = torch.linspace(0, 1, KNOTS, device=x.device) * (count[..., None] - 1).clamp(min=0)
            low = place.floor().long()
            high = torch.minimum(low + 1, (count[..., None] - 1).clamp(min=0))
            a, b = ordered.gather(2, low), ordered.gather(2, high)
            knots = torch.where(count[..., None] > 0, torch.lerp(a, b, (place - low).to(a.dtype)), 0)
        else:
            knots = x.new_zeros(len(x), x.shape[2], KNOTS)
        # After rounding, a knot must not be below the one before it.
        return {"moments": torch.stack([mean, deviation], 1), "knots": knots.cummax(-1).values, "exists": count > 0}

    def forward(self, x: Tensor, known: dict[str, Tensor]) -> Tensor:
        """Features `[T, D, N, FEATURES]` of x `[T, N, D]`."""
        missing = x.isnan() | ~known["exists"][:, None]
        mean, deviation = known["moments"][:, :, None].unbind(1)
        z = torch.where(missing, 0, (x - mean) / deviation).transpose(1, 2)
        z = z / (1 + (z / SOFT).square()).sqrt()
        values = torch.where(missing, 0, x).transpose(1, 2).contiguous()
        place = self._place(values, known["knots"], SAME * deviation.transpose(1, 2))
        gone = missing.transpose(1, 2)
        at = torch.linspace(0, 1, BUMPS, device=x.device, dtype=z.dtype)
        bumps = (1 - (place[..., None] - at).abs() * (BUMPS - 1)).clamp(min=0)
        cells = torch.cat([(2 * place - 1)[..., None], bumps], -1).masked_fill(gone[..., None], 0)
        return torch.cat([z[..., None], gone[..., None].to(z.dtype), cells], -1)

    def _place(self, x: Tensor, knots: Tensor, same: Tensor) -> Tensor:
        """Where x `[T, D, N]` is among the knots, from 0 to 1; the middle of those within `same [T, D, 1]` of it."""
        left, right = torch.searchsorted(knots, x - same), torch.searchsorted(knots, x + same, right=True)
        high, low = left.clamp(1, KNOTS - 1), (left - 1).clamp(0, KNOTS - 2)
        a, b = knots.gather(2, low), knots.gather(2, high)
        between = low + ((x - a) / (b - a).clamp(min=1e-30)).clamp(0, 1)
        return torch.where(right > left, (left + right - 1) / 2, between) / (KNOTS - 1)


def ranks(x: Tensor, mask: Tensor) -> Tensor:
    """How many values of its column are below each cell of a support, `MISSING` of one: `[T, N, D]`, int64."""
    there = mask[..., None] & ~x.isnan()
    columns = torch.where(there, x, torch.inf).transpose(1, 2).contiguous()
    below = torch.searchsorted(columns.sort(-1).values, columns).transpose(1, 2)
    return torch.where(there, below, MISSING)


def hashed(words: Tensor) -> Tensor:
    """Scatter integers over 62 bits; sums of the results are exact in any order."""
    words = words * 0x9E3779B97F4A7C1 + 0x1234567
    words = (words ^ (words >> 29)) * 0xBF58476D1CE4E5B
    words = (words ^ (words >> 31)) * 0x94D049BB133111E
    return words ^ (words >> 30)


def class_numbers(x: Tensor, y: Tensor, mask: Tensor, n_classes: int) -> Tensor:
    """Number the classes of a support from the largest to the smallest: the number of each class id, `[T, C]`.

    Among classes of one size a hash of the ranks of their cells decides, which depends neither on the order of rows and
    columns nor on units or names of classes. Classes with the same rows have one number, the lowest of theirs; only if
    a table is the same once columns and classes change places, ids decide.
    """
    there = (mask[..., None] & ~x.isnan()).any(1, keepdim=True) & mask[..., None]
    member, below = one_hot(y, n_classes) & mask[..., None], ranks(x, mask)

    def of_classes(cells: Tensor) -> Tensor:
        rows = hashed(torch.where(there, hashed(cells), 0).sum(2))
        return torch.where(member, rows[..., None], 0).sum(1)

    key, rows = of_classes(below), of_classes(below ^ hashed(torch.arange(x.shape[2], device=x.device)))
    return _numbers(member.sum(1).neg(), key, rows)


def column_numbers(x: Tensor, mask: Tensor) -> Tensor:
    """Number the columns of a support by a hash of the ranks of their cells, which knows no order of rows: `[T, D]`.

    Columns that order the rows alike have one number, the lowest of theirs; only if a table is the same once other
    columns change places, theirs decide. Columns that the table does not have come last.
    """
    below = ranks(x, mask)
    exists = (mask[..., None] & ~x.isnan()).any(1)
    cells = hashed(below) * (exists[:, None] & mask[..., None])
    rows = hashed(cells.sum(2, keepdim=True))
    key = (hashed(below ^ rows) * mask[..., None]).sum(1)
    at = hashed(torch.arange(x.shape[1], device=x.device))[:, None]
    order = (hashed(below ^ at) * mask[..., None]).sum(1)  # of the rows, by this column
    return _numbers((~exists).long(), key, order)


def _numbers(first: Tensor, second: Tensor, content: Tensor) -> Tensor:
    """How many of K come before each by `first`, `second [T, K]` and place, which those of one content share."""
    same = content[:, :, None] == content[:, None]
    place, before = same.to(torch.uint8).argmax(2), torch.zeros_like(same)
    for key in (place, second, first):
        own, other = key[:, :, None], key[:, None]
        before = (other < own) | ((other == own) & before)
    return before.sum(2)


def in_order(number: Tensor) -> Tensor:
    """The place of each of K in the order of their numbers `[T, K]`, of those alike in any order: `[T, K]`."""
    return number.argsort(dim=1, stable=True).argsort(dim=1)


def shared(values: Tensor, number: Tensor) -> Tensor:
    """The mean of `values [T, K, ...]` over those of K with one `number [T, K]`, so that no order among them counts.

    The values themselves, bit for bit, where no two numbers are alike.
    """
    alike = (number[:, None] == number[:, :, None]).to(values.dtype)
    with torch.autocast(values.device.type, enabled=False):
        return (alike / alike.sum(2, keepdim=True) @ values.flatten(2)).view(values.shape)


def beside(features: Tensor, number: Tensor, exists: Tensor) -> Tensor:
    """Features `[T, D, N, F]` of columns with those of their `NEIGHBOURS` in the order of numbers: `[T, D, N, 3 F]`.

    The last of the columns that there are is followed by the first.
    """
    place, even = in_order(number), shared(features, number)
    order, count = place.argsort(1), exists.sum(1, keepdim=True).clamp(min=1)
    after = [order.gather(1, (place + shift) % count) for shift in NEIGHBOURS]
    neighbours = torch.cat([even.gather(1, of[..., None, None].expand_as(even)) for of in after], -1)
    return torch.cat([features, shared(neighbours, number)], -1)
