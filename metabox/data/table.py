"""Tables as a user has them: columns of numbers or of categories, with missing values, to numbers."""

from __future__ import annotations

import datetime
import math
import numbers
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metabox.arrays import Floats
from metabox.checks import shown

FEW = 50
"""Different strings of a column of categories at least, before it can be a name for each row."""
WORDS = 4
"""Words of its strings on average, from which a column with mostly different ones is free text."""
DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d{1,2}/\d{1,2}/\d{2})([T ].*)?")
"""A string that says a day: with the year in four digits, or with strokes."""
FARTHEST = 1e15
"""Scales from a column's middle at which numbers are cut, to fit float32."""
LARGEST = sys.float_info.max / 4
"""The largest scale, below what a float can hold."""
MOST_COLUMNS = 100_000

Column = NDArray[Any]
"""Numbers in float64, NaN if missing; or objects that are strings, None if missing."""


def columns_of(table: Any) -> list[Column]:
    """The columns of a data frame, of an array `[n, D]` or of rows in a list.

    Booleans are numbers 0 and 1; None, NaN and the NA of pandas are missing values.

    Raises:
        ValueError: for dates, complex numbers, numbers among strings and infinity; the message names the column.
        TypeError: for other objects.
    """
    if hasattr(table, "columns") and hasattr(table, "dtypes"):
        names = list(table.columns)
        return [_column(_values(table, i), name) for i, name in enumerate(names)]
    array = np.asarray(table)
    return [_column(array[:, i], i) for i in range(array.shape[1])]


def _values(frame: Any, i: int) -> NDArray[Any]:
    """A column of a data frame of pandas (or one like it): numbers, or objects."""
    column = frame.iloc[:, i] if hasattr(frame, "iloc") else frame[frame.columns[i]]
    kind = str(column.dtype)
    if "datetime" in kind.lower() or "timedelta" in kind.lower() or kind.startswith("period"):
        raise ValueError(_dates(frame.columns[i]))
    return np.asarray(column, dtype=object if not isinstance(column.dtype, np.dtype) else None)


def _dates(name: Any) -> str:
    return (
        f"expected numbers or categories in column {name!r}, got dates; turn them into numbers, such as days since the "
        "first of them"
    )


def _column(values: NDArray[Any], name: Any) -> Column:
    if values.dtype.kind == "M" or values.dtype.kind == "m":
        raise ValueError(_dates(name))
    if values.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: expected real numbers in column {name!r}")
    if values.dtype.kind in "biuf":
        return _finite(values.astype(np.float64), name)
    listed = [None if is_missing(value) else value for value in values.tolist()]
    there = [value for value in listed if value is not None]
    texts = sum(isinstance(value, str) for value in there)
    if texts == len(there) and there:
        if all(DATE.fullmatch(value) for value in there):
            raise ValueError(_dates(name))
        found = np.empty(len(listed), dtype=object)
        found[:] = listed
        return found
    if any(isinstance(v, (datetime.date, datetime.timedelta, np.datetime64, np.timedelta64)) for v in there):
        raise ValueError(_dates(name))
    other = next((v for v in there if not isinstance(v, (str, numbers.Real, np.bool_))), None)
    if other is not None:
        raise TypeError(f"argument must be a string or a real number, not {type(other).__name__!r}, in column {name!r}")
    if texts:
        text = next(value for value in there if isinstance(value, str))
        raise ValueError(
            f"expected numbers or strings in column {name!r}, got both, such as {shown(text)}; write None for what is "
            "missing, or make all of them strings"
        )
    try:
        values = np.array([math.nan if value is None else float(value) for value in listed])
    except OverflowError as error:
        raise ValueError(f"expected numbers below 1.8e308 in column {name!r}, got a larger one") from error
    return _finite(values, name)


def is_missing(value: Any) -> bool:
    """Whether it is None, NaN, NaT or the NA of pandas."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and bool(np.isnan(value))


def _finite(values: Floats, name: Any) -> Floats:
    if np.isinf(values).any():
        raise ValueError(f"expected finite numbers or NaN in column {name!r}, got infinity")
    return values


def joined(before: Column, after: Column) -> Column:
    """A column with further rows of its kind; where one of them is empty, its kind is the other's."""
    if before.dtype != after.dtype:
        like = after.dtype if _empty(before) else before.dtype
        blank = None if like.kind == "O" else math.nan
        before, after = (np.full(len(v), blank, dtype=like) if v.dtype != like else v for v in (before, after))
    return np.concatenate([before, after])


@dataclass(frozen=True)
class Columns:
    """How a table of these columns becomes numbers.

    middle: of each column of numbers, subtracted in float64 so that float32 keeps the digits that tell rows apart
    scale: by which they are divided then
    levels: of each column of categories its strings, sorted, whose places are its numbers; None for numbers, and none
        of a column that was empty, which stays so
    names: of the columns; none for an array
    """

    middle: tuple[float, ...]
    scale: tuple[float, ...]
    levels: tuple[tuple[str, ...] | None, ...]
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, columns: Sequence[Column], names: Sequence[Any]) -> Columns:
        """Those of a table that is learned from.

        Raises:
            ValueError: for free text, a column of mostly different strings that are more than `FEW` or sentences.
        """
        middle, scale, levels = [], [], []
        for column, name in zip(columns, names, strict=True):
            known = _levels(column, name)
            there = np.zeros(0) if known is not None else column[~np.isnan(column)]
            middle.append(float(np.median(there)) if len(there) else 0.0)
            scale.append(_spread(there, middle[-1]))
            levels.append(None if known is None else tuple(known))
        texts = tuple(str(name) for name in names) if all(isinstance(name, str) for name in names) else ()
        return cls(tuple(middle), tuple(scale), tuple(levels), texts)

    def encode(self, columns: Sequence[Column], names: Sequence[Any]) -> Floats:
        """A table of these columns as numbers `[n, D]`; NaN for what is missing and for categories not seen before.

        Raises:
            ValueError: if a column of numbers has strings now, or the other way round.
        """
        found = np.empty((len(columns[0]), len(columns)))
        for i, (column, name) in enumerate(zip(columns, names, strict=True)):
            known = self.levels[i]
            if known == ():
                found[:, i] = math.nan
                continue
            if (known is None) != (column.dtype != object) and not _empty(column):
                now, then = ("strings", "numbers") if known is None else ("numbers", "strings")
                raise ValueError(f"expected {then} in column {name!r}, as in the examples, got {now}")
            if known is None:
                numbers_ = np.full(len(column), np.nan) if column.dtype == object else column
                with np.errstate(over="ignore"):  # what is too far is cut
                    apart = (numbers_ / 2 - self.middle[i] / 2) / self.scale[i] * 2  # as in `_spread`
                found[:, i] = np.clip(apart, -FARTHEST, FARTHEST)
            else:
                number = {level: float(place) for place, level in enumerate(known)}
                found[:, i] = [number.get(value, math.nan) for value in column.tolist()]
        return found

    def about(self) -> dict[str, Any]:
        """As values of JSON, for `columns_from`."""
        levels = [None if known is None else [*known] for known in self.levels]
        return {"middle": [*self.middle], "scale": [*self.scale], "levels": levels, "names": [*self.names]}


def _levels(column: Column, name: Any) -> list[str] | None:
    if _empty(column):
        return []
    if column.dtype != object:
        return None
    known = sorted({value for value in column if value is not None})
    wordy = sum(len(value.split()) for value in known) >= WORDS * len(known)
    if 2 * len(known) > len(column) and (len(known) > FEW or (wordy and len(known) > 2)):
        raise ValueError(
            f"expected numbers or categories in column {name!r}, got {len(known)} different strings in {len(column)} "
            f"rows, which is free text or a name for each row (more than half of the rows differ, and there are over "
            f"{FEW} strings or they have {WORDS} words and more); drop it, or make it numbers"
        )
    return known


def _spread(there: Floats, middle: float) -> float:
    """The standard deviation of the numbers, of any size; 1 if they are all alike."""
    apart = there / 2 - middle / 2  # halves, since the difference may be too large
    if not (largest := float(np.abs(apart).max(initial=0))):
        return 1.0
    return min(max(float(np.std(apart / largest)) * largest * 2, sys.float_info.min), LARGEST)


def _empty(column: Column) -> bool:
    return all(value is None for value in column) if column.dtype == object else bool(np.isnan(column).all())


def columns_from(about: Any) -> Columns | None:
    """What `Columns.about` returned, which may be untrusted; None for None.

    Raises:
        ValueError: if it is something else.
    """
    if about is None:
        return None
    if isinstance(about, dict) and set(about) == {"middle", "scale", "levels", "names"}:
        middle, scale, levels, names = (about[name] for name in ("middle", "scale", "levels", "names"))
        listed = all(isinstance(part, list) and len(part) <= MOST_COLUMNS for part in about.values())
        if listed and len(middle) == len(scale) == len(levels) > 0 and len(names) in (0, len(levels)):
            real = all(isinstance(v, (int, float)) and math.isfinite(v) for v in (*middle, *scale)) and min(scale) > 0
            if real and _texts(names) and all(v is None or (isinstance(v, list) and _texts(v)) for v in levels):
                known = tuple(None if v is None else tuple(v) for v in levels)
                return Columns(tuple(middle), tuple(scale), known, tuple(names))
    raise ValueError("expected how columns become numbers, got something else")


def _texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
