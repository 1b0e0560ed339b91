"""The values that an option can have, declared once, in the signature; `metabox.checks` checks every constructor.

def __init__(self, width: Count = 64, dropout: BelowOne = 0.1, n_shot: CountOrRange = 1) -> None:
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Within:
    """Bounds of a number, for `Annotated[int, Within(least=1)]`.

    Args:
        least: the smallest value.
        most: the largest value.
        above: every value is larger than this.
        below: every value is smaller than this.
        infinite: whether a float may be infinite; it is never NaN.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    infinite: bool = False

    def __contains__(self, value: float) -> bool:
        return not (
            (self.least is not None and value < self.least)
            or (self.most is not None and value > self.most)
            or (self.above is not None and value <= self.above)
            or (self.below is not None and value >= self.below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f" from {self.least} to {self.most}"
        words = (("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below))
        said = " and ".join(f"{word} {value}" for word, value in words if value is not None)
        return f" {'of ' * said.startswith('at')}{said}" if said else ""


ASCENDING = "ascending"
"""Marks a pair whose first number is at most the second."""

Whole = Annotated[int, Within()]
Natural = Annotated[int, Within(least=0)]
Count = Annotated[int, Within(least=1)]
TwoOrMore = Annotated[int, Within(least=2)]
Real = Annotated[float, Within()]
NotNegative = Annotated[float, Within(least=0)]
Positive = Annotated[float, Within(above=0)]
Share = Annotated[float, Within(least=0, most=1)]
BelowOne = Annotated[float, Within(least=0, below=1)]
Between = Annotated[tuple[T, T], ASCENDING]
"""A range [low, high], both included: `Between[Count]`."""
Shape = tuple[Count, ...]
"""Of one input, without the axes of tasks and examples."""
NaturalOrRange = Natural | Between[Natural]
CountOrRange = Count | Between[Count]
RealOrRange = Real | Between[Real]
NotNegativeOrRange = NotNegative | Between[NotNegative]
PositiveOrRange = Positive | Between[Positive]


def ends(value: T | tuple[T, T]) -> tuple[T, T]:
    """A number, or a range [low, high], as its two ends."""
    if isinstance(value, (tuple, list)):
        low, high = value
        return low, high
    return value, value
