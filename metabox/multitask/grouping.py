"""Which tasks to train together: the best division into groups, from what each task does for each other one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations

from torch import Tensor

MOST_GROUPED = 10
"""Tasks that are divided into groups at most: the number of divisions grows faster than exponentially."""

Group = tuple[str, ...]


def best_groups(tasks: Sequence[str], value: Callable[[Group], float]) -> tuple[Group, ...]:
    """The division of tasks into groups with the largest sum of the groups' values, by trying all.

    Args:
        tasks: names, `MOST_GROUPED` at most; a group has them in this order.
        value: of a group, the sum over its tasks; -inf for a group that is not to be.

    Returns:
        The groups, in the order of their first task; of equal divisions one with fewer groups.

    Raises:
        ValueError: for no tasks or too many.
    """
    if not 1 <= len(tasks) <= MOST_GROUPED:
        raise ValueError(f"expected from 1 to {MOST_GROUPED} tasks to divide into groups, got {len(tasks)}")

    @cache
    def best(left: Group) -> tuple[float, int, tuple[Group, ...]]:
        if not left:
            return 0.0, 0, ()
        found = []
        for group in _with(left[0], left[1:]):
            total, fewer, rest = best(tuple(name for name in left if name not in group))
            found.append((value(group) + total, fewer - 1, (group, *rest)))
        return max(found, key=lambda division: division[:2])

    return best(tuple(tasks))[2]


def groups_by_pairs(tasks: Sequence[str], onto: Tensor) -> tuple[Group, ...]:
    """The best groups if a task gets from its group the mean of what it gets from each of the others in it.

    Standley et al. 2020 ("Which tasks should be learned together in multi-task learning?", higher-order approximation)
    estimate larger groups so from networks of two tasks; Fifty et al. 2021 do with task affinity, from one run. A task
    alone gets 0.

    Deviations: every task is in one group, which serves it. In both papers groups may overlap, so that a task helps in
    one group and is served by another, within a budget of networks.

    Args:
        tasks: K names.
        onto: `[K, K]`, row i what task i gives to the others: a gain or an affinity, above 0 if it helps; NaN if it is
            not known, and the two are not put together. The diagonal is not read.

    Raises:
        ValueError: for a matrix of another size, or too many tasks.
    """
    if onto.shape != (len(tasks), len(tasks)):
        raise ValueError(f"expected a matrix [{len(tasks)}, {len(tasks)}], got {list(onto.shape)}")
    given = onto.tolist()

    def value(group: Group) -> float:
        members = [tasks.index(name) for name in group]
        if len(members) == 1:
            return 0.0
        sums = [sum(given[i][j] for i in members if i != j) / (len(members) - 1) for j in members]
        total = math.fsum(sums)
        return -math.inf if math.isnan(total) else total

    return best_groups(tasks, value)


def _with(first: str, others: Group) -> Iterator[Group]:
    """All groups of the first task with some of the others."""
    for size in range(len(others) + 1):
        for chosen in combinations(others, size):
            yield (first, *chosen)
