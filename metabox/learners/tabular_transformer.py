"""Transformer over tables: phi is what it read in the columns and rows of the support."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.method import Method
from metabox.nn.additive import fit_additive, predict_additive
from metabox.nn.columns_then_rows import MOST_CELLS, ColumnsThenRows
from metabox.nn.label_tokens import NearbyTokens, label_tokens
from metabox.nn.sets import masked_mean, one_hot
from metabox.nn.tabular import (
    FEATURES,
    NEIGHBOURS,
    CellFeatures,
    beside,
    class_numbers,
    column_numbers,
    in_order,
    shared,
)
from metabox.nn.transformer import Transformer, TransformerLayer
from metabox.ranges import Count, Natural
from metabox.targets import TaskSpec
from metabox.targets.spec import Scale

SIDE = 8
"""Parts of an image along a side."""
SMALLEST = 1e-6
"""The mean square of the differences between rows below which they are all alike."""


class TabularTransformer(Learner):
    """A transformer over columns, then rows, then the whole support, as in TabICL (Qu et al. 2025).

    x is a table `[T, N, D]` of at most as many columns as the spec says; NaN is a missing value, and a column that is
    NaN in every row of the support is one that the table does not have. Each column is brought to one scale by its
    support (see `metabox.nn.tabular.CellFeatures`), so that units do not matter.

    Each row becomes a token: a few learned tokens attend to the cells of a column, whose labels they see in the
    support, and the cells attend to them (induced attention: Lee et al. 2019, "Set Transformer"); then learned
    summaries attend to the cells of a row, see `metabox.nn.columns_then_rows`. Then the support's rows with their
    labels attend to each other, queries attend to them, as in `InContext`.

    Predictions do not depend on the order of rows and columns, and renaming classes renames predictions: in the
    columns, a class is known by its number in an order that depends on the data only (its size, then a hash of the
    ranks of its cells), among rows by the mean of its rows. What such an order cannot tell apart, columns that order
    the rows alike or classes of the same rows, takes the mean of its places.

    Deviations from TabICL: cells enter as quantiles and not only standardised; labels reach the columns, as in its
    second version; columns have no positions; classes have the embeddings of `InContext` in place of a table; rows are
    taken around their mean over the support; a query starts from a guess by cosine, and with `additive` also from that
    of ridge regression.

    Args:
        spec: the tasks; an image is the table of the means of its 8 x 8 parts.
        cell: features of a cell's token.
        column_depth: layers of attention within columns.
        induced: learned tokens of each such layer.
        row_depth: layers of attention within rows, the last of which is of the summaries only.
        summaries: tokens that sum up a row.
        neighbours: whether a cell's token is also made of the cells of its row in the first and third column after it,
            in an order that depends on the data only, which sets columns of one distribution apart (Qu et al. 2026,
            "TabICLv2").
        width: features of a row's token.
        depth: layers of attention among rows.
        heads: attention heads of these, a divisor of `width`; those of columns and rows have 16 features each, if that
            divides `cell`, else there is one.
        key_heads: heads of their keys and values, a divisor of `heads` (Ainslie et al. 2023): phi shrinks with them.
        scaled: whether attention among rows is sharper if there are more of them (Nakanishi 2025).
        additive: whether a row's token also says what an additive model of the columns predicts for it, see
            `metabox.nn.additive`; in the support that is the model of the other rows.
    """

    method = Method(
        adapt=(
            ("cells of each column", r"u_{nd} = \net{cell}\big(x_{nd}; x_{1:N, d}, y_{1:N}\big)"),
            ("cells of each row", r"t_n^0 = \net{summary}\big(u_{n1}, \ldots, u_{nD}\big) + e_{y_n}"),
            ("self-attention", r"t_n^{l+1} = \net{layer}\big(t_n^l; t_{1:N}^l\big)"),
            ("keep keys and values", r"\task = \{\text{columns}\} \cup \{K^l, V^l\}_l \cup \{e_c\}_c"),
        ),
        predict=(
            (
                "the query's row",
                r"t^0 = \net{summary}\big(\net{cell}(x_1), \ldots, \net{cell}(x_D)\big) + \hat{e}, \quad "
                r"\text{columns} \in \task",
            ),
            ("attend in each layer", r"t^{l+1} = \net{layer}\big(t^l; K^l, V^l\big)"),
            ("read against codes", r"p(y = c \mid x, \task) = \softmax_c\big(\log \hat{p}_c + e_c^\top t^L\big)"),
        ),
        cost=("N^2", "M (N + C)"),
        kin={"InContext": "a token is made of the cells of a row, by attention over columns and rows"},
    )
    label_equivariant = True
    scales: tuple[Scale, ...] = ("none", "support")  # type: ignore[misc]
    decayed = ()

    def __init__(
        self,
        spec: TaskSpec,
        *,
        cell: Count = 32,
        column_depth: Natural = 2,
        induced: Count = 16,
        row_depth: Count = 2,
        summaries: Count = 4,
        neighbours: bool = False,
        width: Count = 128,
        depth: Natural = 4,
        heads: Count = 4,
        key_heads: Count = 1,
        scaled: bool = False,
        additive: bool = False,
    ) -> None:
        super().__init__(spec)
        if self.scaler is not None:
            self.scaler.of_x = False  # columns are scaled here
        self.features = CellFeatures()
        self.neighbours = neighbours
        self.embed = nn.Linear((1 + len(NEIGHBOURS) * neighbours) * FEATURES, cell)
        columns = math.prod((spec.x_shape[0], *_parts(spec)) if len(spec.x_shape) == 3 else spec.x_shape)
        depths = column_depth, induced, row_depth, summaries
        self.rows = ColumnsThenRows(columns, spec.target.label_size, cell, width, *depths)
        self.embed_descriptor = nn.Linear(spec.descriptor_size, width) if spec.descriptor_size else None
        of_vectors = spec.target.n_classes is None
        self.labels = NearbyTokens(spec.target, width) if of_vectors else label_tokens(spec.target, width)
        self.additive = additive
        if additive:
            self.embed_guess = nn.Linear(spec.target.label_size if of_vectors else width, width)
            self.trust = nn.Parameter(torch.tensor(3.0))
        self.null_label = nn.Parameter(torch.zeros(width))
        layers = [TransformerLayer(width, heads, 2 * width, "gelu", True, key_heads, scaled) for _ in range(depth)]
        self.transformer = Transformer(layers, width)

    def as_described(self, x: Tensor) -> Tensor:
        """x with its missing values filled and its columns at the number of the spec, for the checks of the spec."""
        if x.ndim != 3 or len(self.spec.x_shape) != 1 or not x.is_floating_point():
            return x
        filled = x.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
        return F.pad(filled, (0, max(0, self.spec.x_shape[0] - x.shape[2])))

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `moments [T, 2, D]`, `knots [T, D, K]`, `exists` and `place [T, D]` of the columns; what
        `ColumnsThenRows` has read in them; `additive [T, D F + 1, L]`, the weights of that model; `centre [T, 1, W]`
        and `size [T, 1, 1]` of the rows; and what `InContext` keeps of them.
        """
        x = self._table(support.x)
        phi = self.features.measure(x, support.mask)
        phi["place"] = column_numbers(x, support.mask)
        features, labels = self.features(x, phi), self._label_codes(x, support)
        rows, known = self.rows.write(features, self._cells(features, phi), labels, support.mask, phi)
        phi |= known
        if descriptor is not None:
            phi["descriptor"] = descriptor
        phi["centre"], phi["size"] = _spread(rows, support.mask)
        tokens, known = self.labels.support(self._tokens(rows, phi), support)
        phi |= known
        if self.additive:
            guess, phi["additive"] = fit_additive(features, self._targets(support), support.mask)
            tokens = tokens + self._guessed(guess, phi)
        return phi | self.transformer.write(tokens, support.mask[:, None]) | {"mask": support.mask}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        x = self._table(x)
        t, m, d = x.shape
        if d != phi["exists"].shape[1]:
            raise ValueError(f"expected x of the {phi['exists'].shape[1]} columns of the support, got {d}")
        largest = t * max(d, phi["mask"].shape[1])  # of what a query is compared with
        if self.training or m * largest <= MOST_CELLS:
            return self._answer(phi, x)
        parts = x.split(max(1, MOST_CELLS // largest), dim=1)
        return torch.cat([self._answer(phi, part) for part in parts], dim=1)

    def _answer(self, phi: Phi, x: Tensor) -> Tensor:
        features = self.features(x, phi)
        rows = self.rows.read(features, self._cells(features, phi), phi)
        tokens, guess = self.labels.query(self._tokens(rows, phi), phi)
        if self.additive:
            linear = predict_additive(features, phi["additive"])
            tokens = tokens + self._guessed(linear, phi)
            guess = None if guess is None else guess + self.trust * linear
        read = self.transformer.read(phi, tokens + self.null_label, phi["mask"][:, None])
        return self.labels.read(read, guess, phi)

    def _cells(self, features: Tensor, phi: Phi) -> Tensor:
        """Tokens of cells `[T, D, N, cell]` of their features `[T, D, N, F]`."""
        seen = beside(features, phi["place"], phi["exists"]) if self.neighbours else features
        tokens: Tensor = self.embed(seen)
        return tokens

    def _table(self, x: Tensor) -> Tensor:
        """x `[T, N, D]`; of an image, the means of its parts."""
        x = x.to(next(self.parameters()).dtype)
        if x.ndim == 5:
            x = F.adaptive_avg_pool2d(x.flatten(0, 1), _parts(self.spec)).unflatten(0, x.shape[:2])
        return x.flatten(2)

    def _label_codes(self, x: Tensor, support: Examples) -> Tensor:
        """Labels as columns show them, `[T, N, label_size]`: of classes their number, see `class_numbers`."""
        n_classes = self.spec.target.n_classes
        if n_classes is None:
            return self._targets(support).to(x.dtype)
        number = class_numbers(x, support.y, support.mask, n_classes)
        codes = shared(one_hot(in_order(number), n_classes).to(x.dtype), number)
        own = support.y[..., None].expand(-1, -1, n_classes)
        return codes.gather(1, own) * support.mask[..., None]

    def _targets(self, support: Examples) -> Tensor:
        """Labels as numbers `[T, N, L]`; of classes, one for each."""
        target = self.spec.target
        if target.n_classes is None:
            return target.encode(support.y, support.mask)
        return one_hot(support.y, target.n_classes)

    def _guessed(self, guess: Tensor, phi: Phi) -> Tensor:
        """What the additive model says `[T, N, L]`, as tokens `[T, N, W]`."""
        tokens: Tensor = self.embed_guess(guess @ phi["codes"] if self.spec.target.n_classes else guess)
        return tokens

    def _tokens(self, rows: Tensor, phi: Phi) -> Tensor:
        """Tokens of rows around their mean over the support, in which what sets rows apart is all that is left."""
        tokens: Tensor = (rows - phi["centre"]) / phi["size"]
        return tokens if self.embed_descriptor is None else tokens + self.embed_descriptor(phi["descriptor"])[:, None]


def _parts(spec: TaskSpec) -> tuple[int, int]:
    """The height and width at which an image is a table."""
    return min(SIDE, spec.x_shape[1]), min(SIDE, spec.x_shape[2])


def _spread(rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the rows of a support `[T, N, D]` and the root mean square around it: `[T, 1, D]`, `[T, 1, 1]`."""
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    centre = masked_mean(rows, mask)[:, None]
    square = masked_mean((rows - centre).square().mean(-1, keepdim=True), mask)[:, None]
    return centre, torch.where(square > SMALLEST, square, 1).sqrt()
