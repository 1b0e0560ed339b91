"""Random functions of vectors, one for each task: what the nodes of a structural causal model compute.

Each takes inputs of mean 0 and standard deviation 1, `[T, n, W]` in float32, and returns values `[T, n, W]` of any
scale. Products have the shape of one task, so that their rounding does not depend on how many tasks are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metabox.seeding import Draws

Values = NDArray[np.float32]
Function = Callable[[Draws, Values], Values]

HIDDEN = 16
FREQUENCIES = 48
TREES = 8
DEPTH = 5
CENTRES = 12
FARTHEST = np.float32(12)
"""Standard deviations at which values are cut."""


def single(values: NDArray[Any]) -> Values:
    found: Values = values.astype(np.float32)
    return found


def standardised(values: Values) -> Values:
    """Mean 0 and standard deviation 1 over the rows, zeros if constant, extremes cut: `[..., n, W]`."""
    n = values.shape[-2]
    values = values - np.add.reduce(values, -2, keepdims=True) / np.float32(n)
    square = np.add.reduce(values * values, -2, keepdims=True) / np.float32(n)
    values *= 1 / np.sqrt(np.maximum(square, np.float32(1e-12)))
    np.minimum(values, FARTHEST, out=values)
    found: Values = np.maximum(values, -FARTHEST, out=values)
    return found


def by_kind(kind: NDArray[np.int64], functions: Sequence[Function], draws: Draws, x: Values) -> Values:
    """Each task's own function of its x, the one whose number is `kind [T]`; the result has the shape of x."""
    found = np.empty_like(x)
    for number, function in enumerate(functions):
        chosen = np.flatnonzero(kind == number)
        if len(chosen):
            found[chosen] = function(draws.at(chosen).under(number), x[chosen])
    return found


def _matrix(draws: Draws, name: str, rows: int, columns: int) -> Values:
    """Random weights `[T, rows, columns]`; some inputs matter more than others."""
    falling = np.exp(draws.normal(f"{name}/falling", rows, 1) * draws.uniform(f"{name}/uneven", 0, 1.5, 1, 1))
    kept = draws.uniform(f"{name}/kept", 0, 1, rows, 1) < draws.uniform(f"{name}/density", 0.3, 1.5, 1, 1)
    weights = draws.normal(name, rows, columns) * falling * kept
    return single(weights / np.sqrt((weights * weights).sum(1, keepdims=True) + 1e-6))


def linear(draws: Draws, x: Values) -> Values:
    return x @ _matrix(draws, "linear", x.shape[2], x.shape[2])


def quadratic(draws: Draws, x: Values) -> Values:
    width = x.shape[2]
    one, two = (x @ _matrix(draws, f"quadratic/{i}", width, width) for i in range(2))
    by = single(draws.uniform("quadratic/by", 0.2, 2, 1, 1))
    found: Values = one * two * by + x @ _matrix(draws, "quadratic/linear", width, width)
    return found


ACTIVATIONS: tuple[Function, ...] = (
    lambda _, x: np.tanh(x),
    lambda _, x: np.maximum(x, 0),
    lambda _, x: np.sin(x),
    lambda _, x: np.abs(x),
    lambda _, x: (x > 0).astype(np.float32),
    lambda _, x: np.exp(-x * x),
    lambda _, x: np.clip(x, -1, 1),
    lambda _, x: np.log1p(np.abs(x)) * np.sign(x),
)


def activated(draws: Draws, name: str, x: Values) -> Values:
    """A random activation function for each task, after a random gain and shift of each unit."""
    gain = np.exp(draws.uniform(f"{name}/gain", np.log(0.5), np.log(4), 1, 1))
    shift = draws.normal(f"{name}/shift", 1, x.shape[2])
    kind = draws.integers(f"{name}/kind", 0, len(ACTIVATIONS) - 1)
    return by_kind(kind, ACTIVATIONS, draws, single(gain) * (x + single(shift)))


def network(draws: Draws, x: Values) -> Values:
    """A perceptron of one hidden layer."""
    hidden = activated(draws, "network", x @ _matrix(draws, "network/in", x.shape[2], HIDDEN))
    return hidden @ _matrix(draws, "network/out", HIDDEN, x.shape[2])


def layer(draws: Draws, x: Values) -> Values:
    """A layer of a deep network: an activation, then a linear map."""
    return activated(draws, "layer", x) @ _matrix(draws, "layer/weights", x.shape[2], x.shape[2])


def process(draws: Draws, x: Values) -> Values:
    """A Gaussian process by random frequencies (Rahimi & Recht 2007) of a heavy-tailed spectrum."""
    width = x.shape[2]
    decay = np.exp(draws.uniform("process/decay", np.log(2), np.log(20), 1, 1))
    length = draws.uniform("process/length", 0, 1, 1, FREQUENCIES) ** (1 / (1 - decay)) - 1
    direction = _matrix(draws, "process/direction", width, FREQUENCIES)
    scale = np.exp(draws.uniform("process/scale", np.log(0.5), np.log(10), 1, 1))
    phase = draws.uniform("process/phase", 0, 2 * np.pi, 1, FREQUENCIES)
    waves = np.cos(x @ (direction * single(np.minimum(length * scale, 20))) + single(phase))
    return waves @ single(draws.normal("process/weights", FREQUENCIES, width))


def _splits(draws: Draws, name: str, x: Values, *shape: int) -> tuple[NDArray[np.int64], Values]:
    """Inputs and thresholds of splits: the value of a random row, so that no side is empty often."""
    t, n, width = x.shape
    flat = int(np.prod(shape))
    favourite = draws.integers(f"{name}/favourites", 0, width - 1, 3)  # a tree ensemble has inputs it uses more often
    which = draws.integers(f"{name}/which", 0, 5, flat)
    any_of_them = draws.integers(f"{name}/input", 0, width - 1, flat)
    chosen = np.where(which < 3, np.take_along_axis(favourite, np.minimum(which, 2), 1), any_of_them)
    row = draws.integers(f"{name}/row", 0, n - 1, flat)
    at = x[np.arange(t)[:, None], row, chosen]
    return chosen.reshape(t, *shape), at.reshape(t, *shape)


def oblivious(draws: Draws, x: Values) -> Values:
    """The mean of trees whose splits are the same for all nodes of a level, as in CatBoost."""
    t, n, width = x.shape
    chosen, at = _splits(draws, "oblivious", x, TREES, DEPTH)
    used = np.arange(DEPTH) < draws.integers("oblivious/depth", 1, DEPTH, 1, 1)
    right = np.take_along_axis(x, chosen.reshape(t, 1, -1), 2) > at.reshape(t, 1, -1)
    leaf = ((right.reshape(t, n, TREES, DEPTH) & used[:, None]) << np.arange(DEPTH)).sum(-1)
    return _leaves(draws, "oblivious", leaf, 2**DEPTH, width)


def trees(draws: Draws, x: Values) -> Values:
    """The mean of ordinary trees, in which each node has a split of its own; some branches end early."""
    t, n, width = x.shape
    size = 2**DEPTH - 1
    chosen, at = (part.reshape(t, -1) for part in _splits(draws, "trees", x, TREES, size))
    ends = draws.uniform("trees/ends", 0, 1, TREES * size) < draws.uniform("trees/early", 0, 0.4, 1)
    first = np.arange(TREES) * size
    node, stopped = np.zeros((t, n, TREES), dtype=np.int64), np.zeros((t, n, TREES), dtype=bool)
    task, row = np.arange(t)[:, None, None], np.arange(n)[:, None]
    for _ in range(DEPTH):
        here = np.minimum(first + node, TREES * size - 1)
        stopped = stopped | ends[task, here]
        right = x[task, row, chosen[task, here]] > at[task, here]
        node = np.where(stopped, node, 2 * node + 1 + right)
    return _leaves(draws, "trees", node, 2 ** (DEPTH + 1) - 1, width)


def _leaves(draws: Draws, name: str, leaf: NDArray[np.int64], n_leaves: int, width: int) -> Values:
    """The mean over trees of the values of leaves `[T, n, TREES]`; with one tree in the simplest tasks."""
    t, n, _ = leaf.shape
    weight = np.arange(TREES) < 2.0 ** draws.uniform(f"{name}/trees", 0, np.log2(TREES) + 0.5, 1)
    values = single(draws.normal(f"{name}/leaves", TREES, n_leaves, width) * weight[:, :, None, None])
    flat = values.reshape(t, TREES * n_leaves, width)
    total = np.zeros((t, n, width), dtype=np.float32)
    for tree in range(TREES):
        total += flat[np.arange(t)[:, None], leaf[:, :, tree] + tree * n_leaves]
    return total


def discretised(draws: Draws, x: Values) -> Values:
    """Each row takes the value of the nearest of a few random rows, then a linear function follows."""
    t, n, width = x.shape
    row = draws.integers("centres", 0, n - 1, CENTRES)
    centres = x[np.arange(t)[:, None], row]
    distance = (centres * centres).sum(-1)[:, None] - 2 * (x @ centres.transpose(0, 2, 1))
    absent = np.arange(CENTRES) >= draws.integers("centres/number", 2, CENTRES, 1)
    nearest = np.where(absent[:, None], np.inf, distance).argmin(-1)
    image = centres @ _matrix(draws, "centres/weights", width, width)
    return np.take_along_axis(image, nearest[:, :, None], 1)


def product(draws: Draws, x: Values) -> Values:
    """The product of a linear function and a Gaussian process, one of another part of the inputs."""
    found: Values = (1 + linear(draws, x)) * process(draws, x)
    return found


FUNCTIONS: dict[str, Function] = {
    "linear": linear,
    "quadratic": quadratic,
    "network": network,
    "oblivious": oblivious,
    "trees": trees,
    "process": process,
    "discretised": discretised,
    "product": product,
}
