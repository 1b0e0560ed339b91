"""Divisions of tasks into groups, against trying all in another way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from metabox.multitask.grouping import best_groups, groups_by_pairs

NAMES = ("a", "b", "c", "d", "e")


def divisions(names: tuple[str, ...]) -> Iterator[list[tuple[str, ...]]]:
    """Each new name joins one of the groups before it, or begins one."""
    if not names:
        yield []
        return
    for groups in divisions(names[:-1]):
        for i in range(len(groups)):
            yield [*groups[:i], (*groups[i], names[-1]), *groups[i + 1 :]]
        yield [*groups, (names[-1],)]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_division_is_that_of_the_largest_sum_over_all_52(seed: int) -> None:
    onto = torch.randn(5, 5, generator=torch.Generator().manual_seed(seed))

    def worth(group: tuple[str, ...]) -> float:
        of = [NAMES.index(name) for name in group]
        return sum(float(onto[[i for i in of if i != j], j].mean()) for j in of) if len(of) > 1 else 0.0

    every = [tuple(groups) for groups in divisions(NAMES)]
    assert len(every) == 52
    wanted = max(every, key=lambda groups: sum(map(worth, groups)))
    assert groups_by_pairs(NAMES, onto) == wanted
    assert best_groups(NAMES, worth) == wanted


def test_two_that_help_each_other_leave_the_one_that_hurts_them() -> None:
    onto = torch.tensor([[math.nan, 2.0, -1.0], [3.0, math.nan, -1.0], [-4.0, -4.0, math.nan]])
    assert groups_by_pairs("abc", onto) == (("a", "b"), ("c",))
    assert groups_by_pairs("abc", -onto) == (("a", "c"), ("b",)) or groups_by_pairs("abc", -onto) == (
        ("a",),
        ("b", "c"),
    )
    assert groups_by_pairs("abc", torch.full([3, 3], -1.0)) == (("a",), ("b",), ("c",))
    assert groups_by_pairs("abc", torch.ones(3, 3)) == (("a", "b", "c"),)


def test_a_task_gets_the_mean_of_what_the_others_in_its_group_give() -> None:
    """In one group of three everyone gets .5, in one of two 1.1, which is less than 1.5 in all."""
    onto = torch.full([3, 3], 0.5)
    onto[0, 1] = onto[1, 0] = 0.55
    assert groups_by_pairs("abc", onto) == (("a", "b", "c"),)
    onto[0, 1] = onto[1, 0] = 1.6  # 1.05 + 1.05 + .5 together, 1.6 + 1.6 + 0 in two groups
    assert groups_by_pairs("abc", onto) == (("a", "b"), ("c",))


def test_a_pair_that_is_not_known_is_not_put_together() -> None:
    onto = torch.ones(3, 3)
    onto[0, 2] = math.nan
    assert groups_by_pairs("abc", onto) in ((("a", "b"), ("c",)), (("a",), ("b", "c")))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_groups([], lambda group: 0.0), "expected from 1 to 10 tasks .*, got 0"),
        (lambda: best_groups([str(k) for k in range(11)], lambda group: 0.0), "expected from 1 to 10 tasks .*, got 11"),
        (lambda: groups_by_pairs("ab", torch.ones(3, 3)), r"expected a matrix \[2, 2\], got \[3, 3\]"),
    ],
)
def test_what_cannot_be_divided_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
