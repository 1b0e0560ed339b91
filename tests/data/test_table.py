"""Columns of tables to numbers, and back from a file that may be anybody's."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from metabox.data.table import Columns, columns_from, columns_of, joined

NAN = float("nan")


@pytest.mark.parametrize(
    ("rows", "numbers"),
    [
        ([[1], [2], [3]], [-(1.5**0.5), 0, 1.5**0.5]),
        ([[True], [False], [None]], [1, -1, NAN]),
        ([["b"], ["a"], ["b"]], [1, 0, 1]),
        ([["b"], [None], [NAN]], [0, NAN, NAN]),
        ([[None], [None], [None]], [NAN, NAN, NAN]),
        ([[7], [7], [7]], [0, 0, 0]),
    ],
)
def test_a_column_becomes_numbers(rows: list[Any], numbers: list[float]) -> None:
    columns = columns_of(np.array(rows, dtype=object))
    found = Columns.of(columns, ["a"]).encode(columns, ["a"])[:, 0]
    np.testing.assert_allclose(found, numbers, atol=1e-12)


def test_digits_that_float32_would_lose_are_kept() -> None:
    seconds = 1.6e9 + np.arange(5.0)[:, None]
    columns = columns_of(seconds)
    found = Columns.of(columns, [0]).encode(columns, [0])[:, 0].astype(np.float32)
    assert len(set(found.tolist())) == 5


def test_an_empty_column_takes_the_kind_of_the_rows_that_are_added() -> None:
    texts, empty, numbers = (columns_of(np.array([[v]] * 2, dtype=object))[0] for v in ("a", None, 3.0))
    assert joined(empty, texts).tolist() == [None, None, "a", "a"]
    assert joined(texts, empty).tolist() == ["a", "a", None, None]
    assert joined(empty, numbers).dtype == np.float64


def test_columns_survive_a_file_and_nothing_else_does() -> None:
    columns = columns_of(np.array([[1, "a"], [2, "b"]], dtype=object))
    known = Columns.of(columns, ["size", "kind"])
    about = json.loads(json.dumps(known.about()))
    assert columns_from(about) == known
    assert columns_from(None) is None
    bad: list[Any] = [
        [],
        {},
        about | {"more": []},
        about | {"middle": [1.0]},
        about | {"middle": [1.0, NAN]},
        about | {"middle": [1.0, "x"]},
        about | {"scale": [1.0, 0.0]},
        about | {"levels": [None, [1]]},
        about | {"levels": 3},
        about | {"names": ["one"]},
        about | {"names": [1, 2]},
    ]
    for other in bad:
        with pytest.raises(ValueError, match="expected how columns become numbers"):
            columns_from(other)
