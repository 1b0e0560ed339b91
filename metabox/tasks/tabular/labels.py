"""What a table has to predict: a number of one node, or classes that it is cut into."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metabox.arrays import Integers
from metabox.seeding import Draws
from metabox.tasks.tabular.functions import Values, single, standardised
from metabox.tasks.tabular.graphs import Graphs, chance, log_uniform, projections


def target_nodes(draws: Draws, graphs: Graphs) -> Integers:
    """The node of y, `[T]`: the last in half of the tasks, else any that has parents."""
    most = graphs.roots.shape[1]
    inner = (np.arange(most) < graphs.n_nodes[:, None]) & ~graphs.roots
    last = most - 1 - inner[:, ::-1].argmax(1)
    key = np.where(inner, draws.uniform("y/node", 0, 1, most), -1)
    found: Integers = np.where(chance(draws, "y/last", 0.5), last, key.argmax(1))
    return found


def target_values(draws: Draws, graphs: Graphs, node: Integers) -> Values:
    """Real y `[T, n]`, mean 0 and standard deviation 1."""
    values = graphs.values[np.arange(len(node)), node][:, :, None]
    return standardised(projections(draws.under("y"), values))[..., 0]


def warped_target(draws: Draws, y: Values) -> Values:
    """Real y of some tasks skewed, heavy-tailed, cut off or whole; in units of many sizes."""
    kind, by = draws.integers("y/warp", 0, 9, 1), single(draws.uniform("y/by", 0.3, 1.2, 1))
    z = np.clip(y, -5, 5)
    step = single(log_uniform(draws, "y/step", 0.05, 0.7, 1))
    shapes = [np.exp(by * z), np.sinh(by * z), np.maximum(z, by - 1), np.round(z / step)]
    shaped = standardised(np.select([kind == i for i in range(4)], shapes, y)[..., None])[..., 0]
    return single(log_uniform(draws, "y/unit", 1e-2, 1e2, 1) * (shaped + draws.normal("y/origin", 1) * 3))


def cut_into_classes(draws: Draws, y: Values, n_classes: tuple[int, int]) -> NDArray[np.int64]:
    """Class ids `[T, n]`: y cut at random ranks, at random values or into equal parts; in random order.

    In a half of the tasks there are as few classes as there may be; and always fewer than rows, so that some class has
    two. A table whose y has a single class is cut at its middle row.
    """
    n = y.shape[1]
    low, high = n_classes
    number = np.where(chance(draws, "two", 0.5, 1), low, draws.integers("classes", low, high, 1))
    number = np.minimum(number, n - 1)
    place, kind = np.arange(high - 1), draws.integers("cuts", 0, 2, 1)
    in_order = np.sort(y, 1)
    ranks = draws.integers("cuts/rank", 0, n - 1, high - 1)
    equal = np.minimum((place + 1) * n // number, n - 1)
    at = np.take_along_axis(in_order, np.where(kind == 2, equal, ranks), 1)
    cuts = np.where(kind == 0, single(draws.normal("cuts/value", high - 1)), at)
    cuts = np.where(place < number - 1, cuts, np.inf)
    found = (y[:, :, None] > cuts[:, None]).sum(-1)
    one = found.min(1) == found.max(1)
    middle = y.argsort(1, kind="stable").argsort(1, kind="stable") >= n // 2
    found = np.where(one[:, None], middle, found)
    key = np.where(np.arange(high) < number, draws.uniform("classes/order", 0, 1, high), 2)
    ids: NDArray[np.int64] = np.take_along_axis(key.argsort(1, kind="stable").argsort(1, kind="stable"), found, 1)
    return ids
