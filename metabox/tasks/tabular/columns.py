"""What a table shows of a model: numbers of many kinds, categories, useless and repeated columns, missing values."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metabox.arrays import Booleans, Floats, Integers
from metabox.seeding import Draws
from metabox.tasks.tabular.functions import Values, single, standardised
from metabox.tasks.tabular.graphs import Graphs, chance, log_uniform, projections

FEW = 1000
"""Whole numbers of an integer column, at most."""


class Odds(NamedTuple):
    """How often a table, and then a column of it, is of some kind; each between 0 and 1."""

    categorical: float
    levels: tuple[int, int]
    warped: float
    odd: float
    missing: float
    rate: float


def sources(draws: Draws, graphs: Graphs, target: Integers, n_columns: int) -> Integers:
    """The node that each column shows, `[T, D]`: of a random part of the nodes; at least one has an ancestor of y.

    Args:
        draws: of the tasks.
        graphs: the models.
        target: the node of y `[T]`.
        n_columns: D.
    """
    t, most = graphs.roots.shape
    task, number = np.arange(t), graphs.n_nodes[:, None]
    there = np.arange(most) < number
    shares = (graphs.ancestors & graphs.ancestors[task, target][:, None]).any(-1) & there
    shown = chance(draws, "shown", draws.uniform("shown/share", 0.2, 1, 1), most) & there
    others = np.arange(most) != target[:, None]
    shown &= others | chance(draws, "shown/of y", 0.3, 1)  # other numbers of the node of y, now and then
    causes = graphs.ancestors[task, target] & others  # of y, of which a table tends to have more
    shown = np.where(shown.any(1, keepdims=True), shown, there & others)
    shown |= causes & chance(draws, "shown/causes", 0.7, 1)
    weight = (
        shown.astype(np.float64) * np.where(causes, log_uniform(draws, "causes", 1, 8, 1), 1) * np.where(shares, 1, 0.4)
    )
    found = _picked(draws.uniform("node", 0, 1, n_columns), weight)
    related = _picked(draws.uniform("node/related", 0, 1, 1), (shares & others).astype(np.float64))[:, 0]
    lacks = ~shares[task[:, None], found].any(1)
    at = draws.integers("node/at", 0, n_columns - 1)
    found[task[lacks], at[lacks]] = related[lacks]
    return found


def _picked(u: Floats, weight: Floats) -> NDArray[np.int64]:
    """For uniform u `[T, D]`, places drawn in proportion to weight `[T, K]`."""
    total = weight.cumsum(1)
    place = (u[:, :, None] * total[:, -1, None, None] >= total[:, None]).sum(-1)
    found: NDArray[np.int64] = np.minimum(place, weight.shape[1] - 1)
    return found


def draw_columns(draws: Draws, graphs: Graphs, target: Integers, n_columns: int, odds: Odds) -> Values:
    """Columns `[T, n, D]` of some nodes, NaN for a missing value."""
    node = sources(draws, graphs, target, n_columns)
    values = graphs.values[np.arange(len(node))[:, None], node].transpose(0, 2, 1, 3)
    x = standardised(projections(draws.under("columns"), values))
    x = _odd(draws.under("odd"), x, odds.odd)
    x, categories = _categories(draws.under("categories"), x, odds)
    shown = np.where(categories, x, _warped(draws.under("warp"), x, odds.warped))
    return _with_missing(draws.under("missing"), shown, standardised(x), odds)


def _warped(draws: Draws, x: Values, p: float) -> Values:
    """Skewed, heavy-tailed, uniform, cut off or whole numbers, in units of many sizes."""
    d = x.shape[2]
    warped = chance(draws, "some", p, 1, 1) & chance(draws, "each", draws.uniform("share", 0.2, 1, 1, 1), 1, d)
    kind, by = draws.integers("kind", 0, 4, 1, d), single(draws.uniform("by", 0.3, 1.3, 1, d))
    sign = single(np.where(chance(draws, "sign", 0.25, 1, d), -1, 1))
    z = np.clip(sign * x, -5, 5)
    shapes = [np.exp(by * z), np.sinh(by * 1.5 * z), np.tanh(by * z), np.maximum(z, by - 1)]
    y = np.where(warped, np.select([kind == i for i in range(4)], shapes, z), x)
    step = single(log_uniform(draws, "step", 0.02, 1, 1, d))
    whole = chance(draws, "whole", 0.3, 1, 1) & chance(draws, "whole/each", 0.5, 1, d)
    y = np.where(whole, np.clip(np.round(standardised(single(y)) / step), -FEW, FEW), y)
    unit, origin = log_uniform(draws, "unit", 1e-3, 1e3, 1, d), draws.normal("origin", 1, d) * 3
    unit, origin = np.where(whole, 1, unit), np.where(whole, np.round(origin), origin)
    return single(unit * (y.astype(np.float64) + origin))


def _categories(draws: Draws, x: Values, odds: Odds) -> tuple[Values, Booleans]:
    """Some columns as codes of 2 or more levels, cut at random ranks; and which these are, `[T, 1, D]`.

    In seven of ten columns the codes are in random order.
    """
    n, d = x.shape[1:]
    some = chance(draws, "some", odds.categorical, 1)
    chosen = some & chance(draws, "each", draws.uniform("share", 0.1, 1, 1), d)
    task, column = np.nonzero(chosen)
    found = x.copy()
    if len(task):
        low, high = odds.levels
        levels = np.floor(log_uniform(draws, "levels", low, high + 1, d)).astype(np.int64).clip(low, high)
        row = draws.integers("cut", 0, n - 1, d, high - 1)[task, column]
        values = x[task, :, column]  # [M, n]
        cuts = np.take_along_axis(values, row, 1)
        cuts = np.where(np.arange(high - 1) < levels[task, column, None] - 1, cuts, np.inf)
        code = (values[:, :, None] > cuts[:, None]).sum(-1)
        order = draws.uniform("order", 0, 1, d, high)[task, column].argsort(-1).argsort(-1)
        ordered = chance(draws, "ordered", 0.3, d)[task, column, None]
        code = np.where(ordered, code, np.take_along_axis(order, code, 1))
        found[task, :, column] = single(code)
    return found, chosen[:, None]


def _odd(draws: Draws, x: Values, p: float) -> Values:
    """In some tables, columns that repeat another one, exactly or nearly; that are constant; that are only noise."""
    n, d = x.shape[1:]
    some = chance(draws, "some", p, 1)
    kind = np.where(some, np.floor(draws.uniform("kind", 0, 1, d) * 12), 99)  # a twelfth each, others as they are
    other = draws.integers("other", 0, d - 1, d)
    copied = np.take_along_axis(x, other[:, None], 2)
    noise = single(draws.normal("noise", n, d)) if some.any() else np.zeros_like(x)
    kind = kind[:, None]
    near = copied + noise * np.float32(0.2)
    return np.select([kind == 0, kind == 1, kind == 2, kind == 3], [copied, near, np.zeros_like(x), noise], x)


def _with_missing(draws: Draws, shown: Values, x: Values, odds: Odds) -> Values:
    """Some values missing: in some columns at random, in others more often the larger their value, or another's, is."""
    n, d = x.shape[1:]
    some = chance(draws, "some", odds.missing, 1, 1)
    if not odds.rate or not some.any():
        return shown
    each = some & chance(draws, "each", draws.uniform("share", 0.1, 1, 1, 1), 1, d)
    rate = draws.uniform("rate", 0, odds.rate, 1, d)
    kind = draws.integers("kind", 0, 2, 1, d)
    other = np.take_along_axis(x, draws.integers("other", 0, d - 1, 1, d), 2)
    steep = draws.normal("steep", 1, d) * 2
    logit = np.log(rate / (1 - rate)) + steep * np.select([kind == 1, kind == 2], [x, other], 0)
    gone = each & (draws.uniform("gone", 0, 1, n, d) < 1 / (1 + np.exp(-np.clip(logit, -50, 50))))
    return np.where(gone, np.float32(np.nan), shown)
