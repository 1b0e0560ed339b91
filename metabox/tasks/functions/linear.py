"""Functions of many inputs, as studied for learning in context: linear, two-layer networks, decision trees."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property
from itertools import combinations
from typing import Annotated, Any

import numpy as np

from metabox.arrays import Floats, Integers
from metabox.episodes import Split
from metabox.ranges import Count, CountOrRange, NaturalOrRange, NotNegative, Whole, Within
from metabox.seeding import Draws
from metabox.targets import Reals, TaskSpec
from metabox.tasks.functions.base import FunctionTasks, padded
from metabox.tasks.functions.gaussian_process import log_sum_exp

MOST_SUBSETS = 5000  # of coordinates, for the oracle of sparse functions
CHUNK = 1 << 22  # numbers in memory at once, for the oracle of a pool


class NormalInputs(FunctionTasks):
    """Functions of standard normal inputs."""

    def __init__(self, dim: Count, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.spec = TaskSpec(x_shape=(dim,), target=Reals(1))

    def inputs(self, draws: Draws, n: int) -> Floats:
        return draws.normal("x", n, self.dim)

    @abstractmethod
    def targets(self, draws: Draws, x: Floats, split: Split) -> tuple[Floats, Any]:
        """See `FunctionTasks.targets`."""


class LinearFunctions(NormalInputs):
    """y = w·x + noise, with w and x standard normal (Garg et al. 2022, "What can transformers learn in-context?").

    The defaults are their tasks: 20 inputs and 2 dim + 1 = 41 points, of which the last is the query; train with
    `StreamLoss` to predict every point, as they do. Their sparse functions have `sparsity` 3: all other coordinates of
    w are 0.

    With a `pool` the training tasks are those of Raventós et al. 2023 ("Pretraining task diversity and the emergence
    of non-Bayesian in-context learning for regression"): w is one of a fixed list of `pool` standard normal
    vectors. Validation and test draw w from N(0, I); evaluate on the split "train" for the pool. Their
    tasks have dim 8, noise 0.5, n_support 15, n_query 1 and pools of up to 2^20.

    `oracle` of an episode is exact if there is noise: it is that of Bayesian ridge regression; if w is sparse, of its
    average over the possible sets of coordinates (None for more than 5,000 sets); with a pool, of the average over the
    pool (`dmmse` in baselines.py has its mean). The last two are slow, so switch them off for training.

    Args:
        dim: number of inputs.
        sparsity: number of coordinates of w that are not 0; None for all.
        noise: standard deviation of the noise on y.
        pool: number of tasks that training draws from; None for endless tasks.
        pool_seed: another seed gives another pool. The seed of training does not change it, so that all runs share a
            pool.
        oracle: whether to compute the oracle.
        n_support: support points, or a range.
        n_query: query points, or a range.
        **kwargs: max_points and share_sizes of `FunctionTasks`.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        dim: Count = 20,
        sparsity: Count | None = None,
        noise: NotNegative = 0.0,
        pool: Count | None = None,
        pool_seed: Whole = 0,
        oracle: bool = True,
        n_support: NaturalOrRange = 40,
        n_query: CountOrRange = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(dim, n_support=n_support, n_query=n_query, **kwargs)
        if sparsity is not None and sparsity > dim:
            raise ValueError(f"expected sparsity from 1 to dim = {dim}, got {sparsity}; None for dense functions")
        self.sparsity, self.pool, self.pool_seed, self.oracle = sparsity, pool, pool_seed, oracle
        self.noise = noise

    def _weights(self, draws: Draws) -> Floats:
        """w of each task, `[T, dim]`."""
        w = draws.normal("w", self.dim)
        if self.sparsity is not None:
            every = np.full(len(w), self.dim)
            kept = draws.distinct("kept", self.sparsity, every, smallest=self.dim, largest=self.dim)
            w *= (kept[..., None] == np.arange(self.dim)).any(1)
        return w

    @cached_property
    def _pool(self) -> Floats:
        return self._weights(Draws("pool", self.pool_seed, n_tasks=self.pool or 0))

    def pool_weights(self) -> Floats:
        """w of every training task, `[pool, dim]`.

        Raises:
            ValueError: if there is no pool.
        """
        if self.pool is None:
            raise ValueError("expected a sampler with a pool, got one of endless tasks; give `pool` a number")
        return self._pool

    def targets(self, draws: Draws, x: Floats, split: Split) -> tuple[Floats, bool]:
        from_pool = self.pool is not None and split == "train"
        w = self._pool[draws.integers("task", 0, len(self._pool) - 1)] if from_pool else self._weights(draws)
        y = (x * w[:, None]).sum(-1)
        if self.noise:
            y += self.noise * draws.normal("noise", x.shape[1])
        return y[..., None], from_pool

    def score(self, x: Floats, y: Floats, known: Any, n_support: Integers, n_query: Integers) -> Floats | None:
        if not (self.oracle and self.noise):
            return None
        if known:
            return pool_score(x, y[..., 0], n_support, n_query, self.noise, self._pool)
        kept = self.dim if self.sparsity is None else self.sparsity
        if math.comb(self.dim, kept) > MOST_SUBSETS:
            return None
        subsets = np.array(list(combinations(range(self.dim), kept)))
        return ridge_score(x, y[..., 0], n_support, n_query, self.noise, subsets)


def ridge_score(
    x: Floats, y: Floats, n_support: Integers, n_query: Integers, noise: float, subsets: Integers
) -> Floats:
    """The oracle of y = w·x + noise, w standard normal on one of the sets of coordinates, all equally likely: `[T]`.

    x and y are support, query and further points, `[T, n, d]` and `[T, n]`; a row of `subsets [S, s]` is a set.

    On a set, w given the support is normal with covariance noise² A⁻¹ and mean A⁻¹ b, for A = XᵀX + noise² I and
    b = Xᵀy; the support's density is proportional to det(A)^(-1/2) exp(bᵀA⁻¹b / 2 noise²).
    """
    seen = x * (np.arange(x.shape[1]) < n_support[:, None])[..., None]
    gram, b = seen.swapaxes(1, 2) @ seen, (seen * y[..., None]).sum(1)
    a = gram[:, subsets[:, :, None], subsets[:, None, :]] + noise**2 * np.eye(subsets.shape[1])  # [T, S, s, s]
    factor = np.linalg.cholesky(a)
    query, asked = padded(x, n_support, n_query)
    value, _ = padded(y[..., None], n_support, n_query)
    right = np.concatenate([b[:, None], query], 1)[:, :, subsets].transpose(0, 2, 3, 1)  # [T, S, s, 1 + M]
    solved = np.linalg.solve(factor, right)
    u, v = solved[..., :1], solved[..., 1:]
    evidence = 0.5 * (u * u).sum((2, 3)) / noise**2 - np.log(np.diagonal(factor, axis1=2, axis2=3)).sum(-1)
    mean, variance = (u * v).sum(2), noise**2 * (1 + (v * v).sum(2))  # [T, S, M]
    each = -0.5 * (value[:, None, :, 0] - mean) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)
    weight = evidence - log_sum_exp(evidence, 1)[:, None]
    oracle: Floats = (log_sum_exp(weight[..., None] + each, 1) * asked).sum(1) / n_query
    return oracle


def pool_score(x: Floats, y: Floats, n_support: Integers, n_query: Integers, noise: float, pool: Floats) -> Floats:
    """The oracle of y = w·x + noise, w one of `pool [P, d]`, all equally likely: `[T]`.

    x and y are support, query and further points, `[T, n, d]` and `[T, n]`.
    """
    seen = (np.arange(x.shape[1]) < n_support[:, None])[..., None]
    support_x, support_y = x * seen, y[..., None] * seen  # zeros fit any w
    (query, asked), (value, _) = padded(x, n_support, n_query), padded(y[..., None], n_support, n_query)
    evidence, together = np.full(len(x), -np.inf), np.full(asked.shape, -np.inf)
    size = max(1, CHUNK // y.size)
    for start in range(0, len(pool), size):
        w = pool[start : start + size].T
        support = -0.5 * (((support_y - support_x @ w) / noise) ** 2).sum(1)  # [T, size]
        fit = -0.5 * ((value - query @ w) / noise) ** 2  # [T, M, size]
        evidence = np.logaddexp(evidence, log_sum_exp(support, 1))
        together = np.logaddexp(together, log_sum_exp(support[:, None] + fit, 2))
    each = together - evidence[:, None] - math.log(noise) - 0.5 * math.log(2 * math.pi)
    oracle: Floats = (each * asked).sum(1) / n_query
    return oracle


class TwoLayerNetworks(NormalInputs):
    """y = √(2/r) Σ a_i relu(w_i·x) over r hidden units, all weights standard normal (Garg et al. 2022).

    The defaults are theirs: 20 inputs, 100 hidden units, 101 points.

    Args:
        dim: number of inputs.
        hidden: r, number of hidden units.
        n_support: support points, or a range.
        n_query: query points, or a range.
        **kwargs: max_points and share_sizes of `FunctionTasks`.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        dim: Count = 20,
        hidden: Count = 100,
        n_support: NaturalOrRange = 100,
        n_query: CountOrRange = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(dim, n_support=n_support, n_query=n_query, **kwargs)
        self.hidden = hidden

    def targets(self, draws: Draws, x: Floats, split: Split) -> tuple[Floats, None]:
        units = np.maximum(x @ draws.normal("first", self.dim, self.hidden), 0)
        return math.sqrt(2 / self.hidden) * (units @ draws.normal("second", self.hidden, 1)), None


class DecisionTrees(NormalInputs):
    """Full binary trees: a node tests whether a coordinate of x is positive, a leaf is a value (Garg et al. 2022).

    The defaults are theirs: depth 4, 20 inputs, 101 points. Leaves are standard normal. A node's coordinate is uniform,
    so one may be tested twice on a path.

    Args:
        dim: number of inputs.
        depth: tests on the path to a leaf.
        n_support: support points, or a range.
        n_query: query points, or a range.
        **kwargs: max_points and share_sizes of `FunctionTasks`.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        dim: Count = 20,
        depth: Annotated[int, Within(least=1, most=16)] = 4,
        n_support: NaturalOrRange = 100,
        n_query: CountOrRange = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(dim, n_support=n_support, n_query=n_query, **kwargs)
        self.depth = depth

    def targets(self, draws: Draws, x: Floats, split: Split) -> tuple[Floats, None]:
        asks = draws.integers("coordinate", 0, self.dim - 1, 2**self.depth - 1)
        node = np.zeros(x.shape[:2], dtype=np.int64)  # numbered as in a heap: the children of i are 2i + 1 and 2i + 2
        for _ in range(self.depth):
            coordinate = np.take_along_axis(asks, node, axis=1)
            answer = np.take_along_axis(x, coordinate[..., None], axis=2)[..., 0] > 0
            node = 2 * node + 1 + answer
        leaf = node - (2**self.depth - 1)
        return np.take_along_axis(draws.normal("leaf", 2**self.depth), leaf, axis=1)[..., None], None
