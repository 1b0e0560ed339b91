"""`TabularPrior`: made-up tables of many kinds, what a learner of any table may be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from metabox.episodes import Device, Episodes, Examples
from metabox.ranges import Between, Count, Share, Within, ends
from metabox.seeding import Draws
from metabox.targets import Classes, Reals, TaskSpec
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.tabular.columns import Odds, draw_columns
from metabox.tasks.tabular.functions import Values, single
from metabox.tasks.tabular.graphs import Exogenous, draw_graphs
from metabox.tasks.tabular.labels import cut_into_classes, target_nodes, target_values, warped_target
from metabox.tasks.tabular.stream import Stream

Columns = Annotated[int, Within(least=1, most=64)]
Ways = Annotated[int, Within(least=2, most=10)]
Nodes = Annotated[int, Within(least=2, most=32)]
Levels = Annotated[int, Within(least=2, most=20)]
Rows = Annotated[int, Within(least=4)]
Noise = Annotated[float, Within(above=0)]
Name = Literal["linear", "quadratic", "network", "oblivious", "trees", "process", "discretised", "product"]


class _Sizes(NamedTuple):
    rows: int
    columns: int
    support: int


class TabularPrior(EpisodeSampler):
    """Tables drawn from random structural causal models, with the flaws that tables have.

    A task is a model: nodes that are random functions of earlier nodes, with noise. Columns show some of them, and so
    does y, which has an ancestor in common with at least one column. In `networks` of the tasks the nodes are the
    layers of a deep network; in the others a random graph, whose functions are linear, quadratic, perceptrons,
    oblivious or ordinary trees, Gaussian processes, discretisations and products, of some of the parents' numbers or
    their sum, product or largest. Columns may be skewed, heavy-tailed, whole numbers, cut off, categories (codes whose
    order means nothing in most), constant, repeated or only noise; rows may be several of one subject; values may be
    missing, which is NaN, at random or depending on a value.

    x is `[T, N, D]` with D the columns of the widest table of a call; narrower tables are filled up with NaN. Tasks
    come in groups of `share_sizes` with equal sizes: a training batch should be one of them. `classes` are those of
    the support, and query rows of other classes are masked out.

    What such priors are made of is published with TabPFN (Müller et al. 2022, Hollmann et al. 2023 and 2025) and TabICL
    (Qu et al. 2025 and its second version); the mixture of networks, graphs and trees is theirs. Differences: nodes
    are vectors of 8 numbers, computed at once for all tasks of a group; there are no boosted trees fitted to noise;
    models in which y cannot be predicted are not filtered out by fitting a forest to each; subjects are repeated
    and columns copied on purpose.

    Args:
        target: "classes", or "reals" for one real number.
        n_rows: rows of a table, or a range, whose logarithm is uniform.
        n_columns: columns, likewise.
        support: share of the rows that is support, or a range.
        n_classes: classes of a table, or a range; y is cut into them, so that a table may have fewer.
        share_sizes: this many consecutive tasks have the same numbers of rows, columns and support.
        n_nodes: nodes of a model, or a range, whose logarithm is uniform.
        networks: share of tasks that are deep networks.
        functions: the kinds of functions in the other ones.
        noise: range of the noise of a node, as a share of its standard deviation.
        repeated: share of tasks with several rows of each subject.
        categorical: share of tasks with categorical columns.
        levels: levels of a categorical column, or a range.
        warped: share of tasks with skewed, heavy-tailed, uniform or cut off columns.
        odd: share of tasks with columns that are constant, repeated or only noise.
        missing: share of tasks with missing values.
        missing_rate: the largest share of a column that is missing on average.

    Raises:
        ValueError: if an option is out of range, or rows are too few for support and query.
    """

    n_fitting = 100  # of many rows each

    def __init__(
        self,
        target: Literal["classes", "reals"] = "classes",
        n_rows: Rows | Between[Rows] = (16, 1024),
        n_columns: Columns | Between[Columns] = (1, 64),
        support: Share | Between[Share] = (0.3, 0.9),
        n_classes: Ways | Between[Ways] = (2, 10),
        share_sizes: Count = 8,
        n_nodes: Nodes | Between[Nodes] = (2, 32),
        networks: Share = 0.4,
        functions: Sequence[Name] = get_args(Name),
        noise: Between[Noise] = (0.003, 0.5),
        repeated: Share = 0.1,
        categorical: Share = 0.4,
        levels: Levels | Between[Levels] = (2, 20),
        warped: Share = 0.5,
        odd: Share = 0.15,
        missing: Share = 0.25,
        missing_rate: Share = 0.4,
    ) -> None:
        self.n_rows, self.n_columns, self.support = ends(n_rows), ends(n_columns), ends(support)
        self.n_classes, self.n_nodes = ends(n_classes), ends(n_nodes)
        self.share_sizes, self.networks, self.noise, self.repeated = share_sizes, networks, noise, repeated
        self.functions = tuple(functions)
        if not self.functions:
            raise ValueError("expected functions as at least one name, got none")
        self.odds = Odds(categorical, ends(levels), warped, odd, missing, missing_rate)
        self.of_classes = target == "classes"
        self.spec = TaskSpec(
            x_shape=(self.n_columns[1],), target=Classes(self.n_classes[1]) if self.of_classes else Reals(1)
        )

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """A batch of tables; see `EpisodeSampler.sample`."""
        first, end = place.first, place.first + place.n_tasks
        parts = []
        while first < end:
            group = first // self.share_sizes
            n = min((group + 1) * self.share_sizes, end) - first
            sizes = self._sizes(replace(place, n_tasks=1, first=group))
            parts.append(self._tables(replace(place, n_tasks=n, first=first), sizes))
            first += n
        return _together(parts).to(device)

    def _sizes(self, group: Place) -> _Sizes:
        draws = group.draws(type(self).__name__, "sizes")
        rows, columns = (
            int(min(high, np.floor(np.exp(draws.uniform(name, np.log(low), np.log(high + 1))[0]))))
            for name, (low, high) in (("rows", self.n_rows), ("columns", self.n_columns))
        )
        share = float(draws.uniform("support", *self.support)[0])
        return _Sizes(rows, columns, int(np.clip(round(share * rows), 2, rows - 1)))

    def _tables(self, place: Place, sizes: _Sizes) -> Episodes:
        """Tasks of one group."""
        draws = place.draws(type(self).__name__)
        x, real = self.draw(draws, sizes.rows, sizes.columns)
        ids = cut_into_classes(draws, real, self.n_classes) if self.of_classes else None
        order = _partition(draws, ids, sizes)
        y = np.take_along_axis(warped_target(draws, real) if ids is None else ids, order, 1)
        x = np.take_along_axis(single(x), order[:, :, None], 1)
        return _episodes(x, y, sizes.support, self.n_classes[1] if self.of_classes else None)

    def draw(self, draws: Draws, n_rows: int, n_columns: int) -> tuple[Values, Values]:
        """Tables x `[T, n, D]` and what is to be predicted, y `[T, n]` of mean 0 and standard deviation 1.

        A subclass with a prior of its own overrides this; y is cut into classes, or skewed, and rows are parted into
        support and query afterwards.

        Args:
            draws: one stream of random numbers for each of the T tasks.
            n_rows: n.
            n_columns: D.
        """
        draws = Stream.of(draws)
        exogenous = Exogenous.of(draws, self.n_nodes[1], n_rows, self.noise, self.repeated)
        graphs = draw_graphs(draws, n_rows, self.n_nodes, self.networks, self.functions, exogenous)
        node = target_nodes(draws, graphs)
        return draw_columns(draws, graphs, node, n_columns, self.odds), target_values(draws, graphs, node)


def _partition(draws: Draws, y: NDArray[np.int64] | None, sizes: _Sizes) -> NDArray[np.int64]:
    """A random order of the rows `[T, n]`, of which the first ones are support.

    The support has at least two classes, and its largest class has a row in the query.
    """
    key = draws.uniform("order", 0, 1, sizes.rows)
    if y is not None:
        task = np.arange(len(y))
        size = (y[:, :, None] == np.arange(y.max() + 1)).sum(1)
        largest = size.argmax(1)
        of_largest = y == largest[:, None]
        key[task, np.where(of_largest, key, 2).argmin(1)] -= 2
        key[task, np.where(~of_largest, key, 2).argmin(1)] -= 2
        key[task, np.where(of_largest, key, -9).argmax(1)] += 2
    found: NDArray[np.int64] = key.argsort(1)
    return found


def _episodes(x: Values, y: NDArray[Any], n_support: int, n_classes: int | None) -> Episodes:
    rows, labels = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.ascontiguousarray(y))
    mask = torch.ones(labels.shape, dtype=torch.bool)
    classes = None
    if n_classes is None:
        labels = labels.float()[..., None]
    else:  # those of the support come first
        shown = (labels[:, :n_support, None] == torch.arange(n_classes)).any(1)
        number = (~shown).to(torch.uint8).argsort(dim=1, stable=True).argsort(dim=1)
        labels, classes = number.gather(1, labels), shown.sort(dim=1, descending=True).values
        mask = classes.gather(1, labels)
    support = Examples(x=rows[:, :n_support], y=labels[:, :n_support])
    query = Examples(x=rows[:, n_support:], y=labels[:, n_support:], mask=mask[:, n_support:])
    return Episodes(support=support, query=query, classes=classes)


def _together(parts: list[Episodes]) -> Episodes:
    """Groups of tasks as one batch: rows are padded with masked ones, columns with NaN."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.query.x.shape[2] for part in parts)

    def join(examples: list[Examples]) -> Examples:
        n = max(e.x.shape[1] for e in examples)
        pad = torch.nn.functional.pad
        return Examples(
            x=torch.cat(
                [
                    pad(pad(e.x, (0, width - e.x.shape[2]), value=torch.nan), (0, 0, 0, n - e.x.shape[1]))
                    for e in examples
                ]
            ),
            y=torch.cat([pad(e.y, (*(0, 0) * (e.y.ndim - 2), 0, n - e.y.shape[1])) for e in examples]),
            mask=torch.cat([pad(e.mask, (0, n - e.mask.shape[1])) for e in examples]),
        )

    return Episodes(
        support=join([part.support for part in parts]),
        query=join([part.query for part in parts]),
        classes=None
        if parts[0].classes is None
        else torch.cat([part.classes for part in parts if part.classes is not None]),
    )
