"""Random structural causal models: nodes that are random functions of earlier ones, each with noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metabox.arrays import Booleans, Floats, Integers
from metabox.seeding import Draws
from metabox.tasks.tabular.functions import FUNCTIONS, Values, by_kind, layer, single, standardised

WIDTH = 8
"""Numbers in the value of a node."""
PARENTS = 4
"""Of a node, at most."""
LAYERS = 6
"""Of a layered network, at most."""


class Graphs(NamedTuple):
    """The values of the nodes of T models, and who stems from whom.

    values: `[T, K, n, W]`, mean 0 and standard deviation 1
    n_nodes: `[T]`, at most K
    roots: `[T, K]`, nodes without parents
    ancestors: `[T, K, K]`, row k: those of node k, itself included
    """

    values: Values
    n_nodes: Integers
    roots: Booleans
    ancestors: Booleans


def log_uniform(draws: Draws, name: str, low: float, high: float, *shape: int) -> Floats:
    found: Floats = np.exp(draws.uniform(name, np.log(low), np.log(high), *shape))
    return found


def chance(draws: Draws, name: str, p: float | Floats, *shape: int) -> Booleans:
    """True with probability p."""
    found: Booleans = draws.uniform(name, 0, 1, *shape) < p
    return found


class Exogenous(NamedTuple):
    """What noise a task has.

    noise: of a node, `[T, K]`, as a share of its standard deviation
    kind: `[T]`
    subject: of a row, `[T, n]`
    alike: how much of the noise rows of one subject share, `[T, 1, 1]`
    """

    noise: Floats
    kind: Integers
    subject: Integers
    alike: Floats

    @classmethod
    def of(cls, draws: Draws, most: int, n: int, noise: tuple[float, float], repeated: float) -> Exogenous:
        size = log_uniform(draws, "noise/size", noise[0], noise[1], 1)
        each = size * log_uniform(draws, "noise/each", 0.3, 3, most)
        again = chance(draws, "subjects", repeated, 1)
        rows = np.where(again, draws.integers("subjects/rows", 2, 8, 1), 1)
        alike = np.where(again, draws.uniform("subjects/alike", 0.5, 1, 1), 0)[..., None]
        return cls(each, draws.integers("noise/kind", 0, 4), np.arange(n) // rows, alike)

    def at(self, chosen: NDArray[np.int64]) -> Exogenous:
        return Exogenous(self.noise[chosen], self.kind[chosen], self.subject[chosen], self.alike[chosen])

    def draw(self, draws: Draws, name: str, width: int) -> Values:
        """Noise of one node, `[T, n, W]`: normal, Laplace, uniform, skewed, or normal with rare outliers."""
        n = self.subject.shape[1]
        z = single(draws.normal(name, n, width))
        kind = self.kind[:, None, None]
        if (kind == 1).any():  # of each, the same standard deviation
            z = np.where(kind == 1, np.sign(z) * z * z / np.float32(np.sqrt(3)), z)
        if (kind == 2).any():
            z = np.where(kind == 2, np.tanh(z * np.float32(0.85)) * np.float32(1.7), z)
        if (kind == 3).any():
            z = np.where(
                kind == 3, (np.exp(np.clip(z, -4, 4) * np.float32(0.8)) - np.float32(1.38)) / np.float32(1.3), z
            )
        if (kind == 4).any():
            z = np.where(kind == 4, z * np.where(np.abs(z[..., :1]) > 2.2, np.float32(4), np.float32(1)), z)
        shared = np.take_along_axis(z, self.subject[:, :, None], 1)
        mixed: Values = single(np.sqrt(self.alike)) * shared + single(np.sqrt(1 - self.alike)) * z
        return np.where(self.alike > 0, mixed, z)


def draw_graphs(
    draws: Draws,
    n: int,
    n_nodes: tuple[int, int],
    networks: float,
    kinds: Sequence[str],
    exogenous: Exogenous,
) -> Graphs:
    """T random models, each with n rows.

    Args:
        draws: one stream for each task.
        n: rows.
        n_nodes: the range of their number, whose logarithm is uniform.
        networks: share of tasks that are layered networks: node k is a layer of k - 1.
        kinds: of functions that the nodes of the others compute, from `FUNCTIONS`.
        exogenous: the noise.
    """
    t, most = len(draws.tasks), n_nodes[1]
    layered = chance(draws, "layered", networks)
    number = np.floor(log_uniform(draws, "nodes", n_nodes[0], n_nodes[1] + 1)).astype(np.int64)
    number = np.clip(number, n_nodes[0], np.where(layered, max(n_nodes[0], min(most, LAYERS)), most))
    values = np.zeros((t, most, n, WIDTH), dtype=np.float32)
    roots, ancestors = np.zeros((t, most), dtype=bool), np.zeros((t, most, most), dtype=bool)
    is_root = chance(draws, "root", 0.2, most) & ~layered[:, None]
    is_root[:, 0], is_root[:, 1:2] = True, False
    for k in range(most):
        here = np.flatnonzero(number > k)
        if not len(here):
            break
        own, outside = draws.at(here).under(f"node {k}"), exogenous.at(here)
        e = outside.draw(own, "noise", WIDTH)
        ancestors[here, k, k] = True
        root = is_root[here, k]
        roots[here, k] = root
        if root.any():
            values[here[root], k] = _exogenous(own.at(root).under("root"), e[root])
        if k and not root.all():
            inner = ~root
            child, its = here[inner], own.at(inner).under("inner")
            parents = _parents(its, k, layered[child])
            for slot in range(PARENTS):
                at = parents[:, slot]
                there = at >= 0
                ancestors[child[there], k] |= ancestors[child[there], at[there]]
            x = _combined(its, values[child[:, None], np.maximum(parents, 0)], parents >= 0)
            y = standardised(_computed(its, x, layered[child], kinds))
            y = y + single(outside.noise[inner, k, None, None]) * e[inner]
            values[child, k] = standardised(y)
    return Graphs(values, number, roots, ancestors)


def _exogenous(draws: Draws, e: Values) -> Values:
    """A node without parents: correlated or independent numbers, uniform or in clusters or as the noise is.

    All are functions of 1 to W numbers, so that a few columns may tell what the node is.
    """
    rank = np.arange(WIDTH) < log_uniform(draws, "rank", 1, WIDTH, 1)
    mixed = e @ single(draws.normal("correlation", WIDTH, WIDTH) * rank[:, :, None])
    e = np.where(rank[:, None], e, standardised(mixed))
    flat, clusters = chance(draws, "uniform", 0.2, 1, 1), chance(draws, "clusters", 0.25, 1, 1)
    x = np.where(chance(draws, "correlated", 0.5, 1, 1), standardised(mixed), e)
    x = np.where(flat, np.tanh(x * np.float32(0.85)), x)
    centres = single(draws.normal("centres", 6, WIDTH) * 1.5)
    which = np.minimum((np.abs(e[..., 0]) * 3).astype(np.int64), draws.integers("clusters/number", 1, 5, 1))
    found = x * np.float32(0.5) + np.take_along_axis(centres, which[..., None], 1)
    return standardised(np.where(clusters, found, x))


def _parents(draws: Draws, k: int, layered: Booleans) -> NDArray[np.int64]:
    """Which earlier nodes a node depends on, `[T, PARENTS]`, -1 for none; recent ones are likelier in some tasks."""
    number = np.minimum(draws.integers("parents/number", 1, PARENTS, 1), k)
    recent = draws.uniform("parents/recent", 0.4, 1, 1)
    chosen = np.minimum((draws.uniform("parents", 0, 1, PARENTS) ** recent * k).astype(np.int64), k - 1)
    chosen = np.where(np.arange(PARENTS) < number, chosen, -1)
    only = np.where(np.arange(PARENTS) == 0, k - 1, -1)
    return np.where(layered[:, None], only, chosen)


def _combined(draws: Draws, values: Values, present: Booleans) -> Values:
    """The values of parents `[T, PARENTS, n, W]` as one input `[T, n, W]`: some of each, their sum, product, largest.

    Of a single parent, all are the parent.
    """
    t, slots = present.shape
    several = present.sum(1) > 1
    turned = np.matmul(values, single(draws.normal("turn", slots, WIDTH, WIDTH)) / np.float32(np.sqrt(WIDTH)))
    turned = np.where(several[:, None, None, None], turned, values)
    kind, there = draws.integers("combine", 0, 4), present[:, :, None, None]
    found = np.empty((t, *values.shape[2:]), dtype=np.float32)
    for i in range(4):
        chosen = np.flatnonzero(np.minimum(kind, 3) == i)
        if not len(chosen):
            continue
        part, here = turned[chosen], there[chosen]
        if i == 0:
            found[chosen] = np.where(here, part, 0).sum(1)
        elif i == 1:
            found[chosen] = np.where(here, part, 1).prod(1)
        elif i == 2:
            found[chosen] = np.where(here, part, -np.inf).max(1)
        else:  # each number from one parent
            slot = draws.at(chosen).under("slot").integers("slot", 0, present[chosen].sum(1)[:, None] - 1, WIDTH)
            found[chosen] = np.take_along_axis(values[chosen], slot[:, None, None], 1)[:, 0]
    return standardised(found)


def _computed(draws: Draws, x: Values, layered: Booleans, kinds: Sequence[str]) -> Values:
    """The function of a node: a layer in layered networks, else one of the kinds."""
    kind = np.where(layered, len(kinds), draws.integers("function", 0, len(kinds) - 1))
    return by_kind(kind, [*(FUNCTIONS[name] for name in kinds), layer], draws, x)


def projections(draws: Draws, values: Values) -> Values:
    """One number of vectors `[T, n, J, W]`, for each j another: one of them, or a random direction; `[T, n, J]`."""
    j, width = values.shape[2:]
    one = np.eye(width)[draws.integers("number", 0, width - 1, j)]
    any_of = draws.normal("direction", j, width) / np.sqrt(width)
    weights = single(np.where(chance(draws, "one", 0.6, j, 1), one, any_of))
    found: Values = (values * weights[:, None]).sum(-1)
    return found
