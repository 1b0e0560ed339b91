"""Arguments are checked against type hints: what is taken, as what, and what is said of the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pytest
import torch

from metabox.checks import check, check_fields, checked
from metabox.config import Configured
from metabox.hints import hints
from metabox.nn.backbones import MLP, Backbone, Conv4
from metabox.nn.conditioning import Add, Conditioner
from metabox.ranges import (
    BelowOne,
    Between,
    Count,
    CountOrRange,
    Natural,
    Positive,
    Real,
    Share,
    Whole,
    Within,
)
from metabox.tasks import RBF
from metabox.tasks.functions.kernels import Kernel

if TYPE_CHECKING:
    from nowhere import Unknown

Endless = Annotated[float, Within(above=0, infinite=True)]
NET, ARRAY = MLP((2,)), np.array([1.0, 2.0])


@pytest.mark.parametrize(
    ("hint", "value", "taken"),
    [
        (Count, 3, 3),
        (Count, np.int64(3), 3),
        (Natural, 0, 0),
        (Whole, -5, -5),
        (int, np.uint8(7), 7),
        (float, 1, 1.0),
        (float, np.float32(0.5), 0.5),
        (Share, True, None),
        (Share, 1, 1.0),
        (Share, 0.0, 0.0),
        (BelowOne, 1.0, None),
        (Endless, math.inf, math.inf),
        (Endless, math.nan, None),
        (Real, -math.inf, None),
        (Count, 2.0, None),
        (Count, "3", None),
        (Whole, 2**63, None),
        (float, 10**400, None),
        (bool, np.bool_(True), True),
        (bool, 1, None),
        (str, Path("a/b"), "a/b"),
        (str, b"a", None),
        (Literal["a", 3], 3, 3),
        (Literal["a", 3], np.int64(3), 3),
        (Literal[1, 2], True, None),
        (Literal["a"], "b", None),
        (CountOrRange, 2, 2),
        (CountOrRange, [1, 2], (1, 2)),
        (CountOrRange, (2, 2), (2, 2)),
        (CountOrRange, (3, 2), None),
        (CountOrRange, (1, 2, 3), None),
        (Between[Positive], (1, np.float64(2)), (1.0, 2.0)),
        (Count | None, None, None.__class__),
        (tuple[Count, ...], [1, 2], (1, 2)),
        (tuple[Count, ...], 3, None),
        (tuple[Count, ...], torch.ones(2), None),
        (list[str], ["a"], ["a"]),
        (list[str], "a", None),
        (list[str], ["a", 1], None),
        (Sequence[float], ARRAY, ARRAY),
        (Sequence[float], np.array(["a"]), None),
        (Sequence[float], "12", None),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (dict[str, int], [1], None),
        (type[Conditioner], Add, Add),
        (type[Conditioner], MLP, None),
        (Backbone, NET, NET),
        (Backbone, MLP, None),
        (Kernel | list[Kernel], 3, None),
        (Callable[[int], int], abs, abs),
        (Callable[[int], int], 3, None),
        (Any, "whatever", "whatever"),
        (torch.Tensor, "whatever", "whatever"),
    ],
    ids=str,
)
def test_a_value_is_taken_or_refused(hint: Any, value: Any, taken: Any) -> None:
    if taken is None:
        with pytest.raises(ValueError, match=r"^expected x as .*, got .*"):
            check("x", value, hint)
    else:
        got = check("x", value, hint)
        assert got is value or (type(got), got) == (type(taken), taken)


@pytest.mark.parametrize(
    ("hint", "value", "says"),
    [
        (Count, -1, "expected x as a whole number of at least 1, got -1"),
        (Count, 2.0, "expected x as a whole number of at least 1, got 2.0; use 2"),
        (Count, "7", "expected x as a whole number of at least 1, got '7'; use 7, without quotes"),
        (Count, torch.tensor(3), "expected x as a whole number of at least 1, got a tensor int64 []; use .item()"),
        (Share, 2, "expected x as a number from 0 to 1, got 2"),
        (BelowOne, 1.5, "expected x as a number of at least 0 and below 1, got 1.5"),
        (Positive | None, 0, "expected x as a number above 0 or None, got 0"),
        (CountOrRange, (3, 2), "expected x as a whole number of at least 1 or a range [low, high] of them, got (3, 2); "
         "the lower one comes first"),
        (tuple[Count, Count, Count], (1, 2), "expected x as 3 whole numbers of at least 1, got (1, 2)"),
        (Literal["pool", "stride"], "pol", "expected x as one of 'pool', 'stride', got 'pol'; did you mean 'pool'?"),
        (Kernel | list[Kernel] | None, 3, "expected x as a Kernel or a list of Kernels or None, got 3"),
        (Kernel, RBF, "expected x as a Kernel, got the class RBF; make one: RBF(...)"),
        (type[Conditioner], "add", "expected x as a class below Conditioner, got 'add'"),
        (bool, "no", "expected x as True or False, got 'no'"),
        (str, np.zeros((2, 3)), "expected x as a string, got an array float64 [2, 3]"),
        (str, ["a" * 500] * 50, None),
    ],
)  # fmt: skip
def test_what_is_said_names_the_range_the_value_and_the_way_out(hint: Any, value: Any, says: str | None) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # is checked in full
        check("x", value, hint)
    assert says is None or str(refused.value) == says
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)


class Sized(Configured):
    def __init__(self, size: Count = -1, more: Unknown = None, **rest: Any) -> None:
        self.size = size


class Taller(Sized):
    def __init__(self, height: Positive = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.height = height


class Doubled(Sized):
    def __init__(self, half: Count = 1) -> None:
        super().__init__(size=-2 * half)


def test_a_constructor_is_checked_also_through_what_it_hands_on() -> None:
    assert Taller(height=2, size=np.int32(3)).height == 2.0
    assert type(Taller(size=np.int32(3)).size) is int
    with pytest.raises(ValueError, match="expected size as a whole number of at least 1, got 0"):
        Taller(size=0)
    with pytest.raises(ValueError, match="expected height as a number above 0, got 'a'"):
        Taller("a")  # type: ignore[arg-type]


def test_a_default_and_what_a_class_tells_its_base_are_not_checked() -> None:
    assert Sized().size == -1
    assert Doubled(2).size == -4


def test_a_hint_whose_name_only_a_type_checker_knows_breaks_nothing() -> None:
    assert "more" not in hints(Sized.__init__)
    assert Sized(2, more=object()).size == 2  # type: ignore[arg-type]


def test_equal_values_of_other_types_make_equal_records() -> None:
    assert Taller(height=2).config == Taller(height=np.float32(2)).config == Taller(height=2.0).config
    assert repr(Taller(height=2)) == repr(Taller(height=2.0))


@dataclass(frozen=True)
class Point:
    x: Count
    y: Between[Real] = (0.0, 1.0)
    made: list[str] | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@checked
def twice(x: Count, *more: Share, **named: Positive) -> tuple[int, tuple[float, ...], dict[str, float]]:
    return x, more, named


def test_dataclasses_and_functions_are_checked_alike() -> None:
    assert Point(np.int64(1), [1, 2]).y == (1.0, 2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected y as a range \[low, high\] of numbers, got \(2, 1\)"):
        Point(1, (2, 1))
    assert twice(1, 1, 0, z=3) == (1, (1.0, 0.0), {"z": 3.0})
    for call, says in (
        (lambda: twice(0), "expected x as"),
        (lambda: twice(1, 2), "expected more as"),
        (lambda: twice(1, z=0), "expected z as"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        twice()  # type: ignore[call-arg]


def test_what_a_backbone_takes_is_read_from_its_constructor() -> None:
    assert set(hints(Conv4.__init__)) == {"x_shape", "width", "downsample", "norm", "gain", "average"}
