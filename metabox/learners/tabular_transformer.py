"""Transformer over tables: phi is what it read in the columns and rows of the support."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.nn.label_tokens import NearbyTokens, label_tokens
from metabox.nn.sets import masked_mean, one_hot
from metabox.nn.tabular import FEATURES, CellFeatures, class_numbers
from metabox.nn.transformer import Transformer, TransformerLayer
from metabox.ranges import Count, Natural
from metabox.targets import TaskSpec
from metabox.targets.spec import Scale

MOST_CELLS = 2**18
"""Cells at a time in evaluation, for memory; the result does not depend on it."""
SMALLEST = 1e-6
"""The mean square of the differences between rows below which they are all alike."""


class TabularTransformer(Learner):
    """A transformer over columns, then rows, then the whole support, as in TabICL (Qu et al. 2025).

    x is a table `[T, N, D]` of at most as many columns as the spec says; NaN is a missing value, and a column that is
    NaN in every row of the support is one that the table does not have. Each column is brought to one scale by its
    support (see `metabox.nn.tabular.CellFeatures`), so that units do not matter.

    Columns: each cell is a token; a few learned tokens attend to the support's cells of a column, whose labels they
    see, and the cells attend to them (induced attention: Lee et al. 2019, "Set Transformer"). Rows: in each row,
    `summaries` learned tokens attend to the row's cells, and together become the token of the row. Context: the support
    rows with their labels attend to each other, queries attend to them, as in `InContext`.

    Predictions do not depend on the order of rows and columns, and renaming classes renames predictions: in the
    columns, a class is known by its number in an order that depends on the data only (its size, then a hash of the
    ranks of its cells), in the context by the mean of its rows.

    Deviations from TabICL: cells enter as quantiles and not only standardised; labels reach the columns, as in its
    second version; columns have no positions; classes have the embeddings of `InContext` in place of a table; a query's
    guess by cosine as there.

    Args:
        spec: the tasks; images are tables of their pixels.
        cell: features of a cell's token.
        column_depth: layers of attention within columns.
        induced: learned tokens of each such layer.
        row_depth: layers of attention within rows, the last of which is of the summaries only.
        summaries: tokens that sum up a row.
        width: features of a row's token.
        depth: layers of attention among rows.
        heads: attention heads of a layer among rows, a divisor of `width`; those of columns and rows have as many
            features in a head, 16 at least if `cell` allows it.
    """

    label_equivariant = True
    scales: tuple[Scale, ...] = ("none", "support")  # type: ignore[misc]
    decayed = ()

    def __init__(
        self,
        spec: TaskSpec,
        *,
        cell: Count = 32,
        column_depth: Natural = 2,
        induced: Count = 8,
        row_depth: Count = 2,
        summaries: Count = 4,
        width: Count = 128,
        depth: Count = 4,
        heads: Count = 4,
    ) -> None:
        super().__init__(spec)
        if self.scaler is not None:
            self.scaler.of_x = False  # columns are scaled here
        own = _heads(cell)
        self.features = CellFeatures()
        self.embed = nn.Linear(FEATURES, cell)
        self.embed_label = nn.Linear(spec.target.label_size, cell)
        self.columns = nn.ModuleList(_Induced(cell, own, induced) for _ in range(column_depth))
        self.summaries = nn.Parameter(torch.randn(summaries, cell) * 0.1)
        self.rows = nn.ModuleList(TransformerLayer(cell, own, 2 * cell, "gelu", sink=True) for _ in range(row_depth))
        self.row_norm = nn.LayerNorm(cell)
        self.embed_row = nn.Linear(summaries * cell, width, bias=False)
        self.embed_descriptor = nn.Linear(spec.descriptor_size, width) if spec.descriptor_size else None
        of_vectors = spec.target.n_classes is None
        self.labels = NearbyTokens(spec.target, width) if of_vectors else label_tokens(spec.target, width)
        self.null_label = nn.Parameter(torch.zeros(width))
        layers = [TransformerLayer(width, heads, 2 * width, "gelu", sink=True) for _ in range(depth)]
        self.transformer = Transformer(layers, width)

    def as_described(self, x: Tensor) -> Tensor:
        """x with its missing values filled and its columns at the number of the spec, for the checks of the spec."""
        if x.ndim != 3 or len(self.spec.x_shape) != 1 or not x.is_floating_point():
            return x
        return F.pad(
            x.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf), (0, max(0, self.spec.x_shape[0] - x.shape[2]))
        )

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `moments [T, 2, D]`, `knots [T, D, K]` and `exists [T, D]` of the columns; `column.i [T, D, I, E]`, the
        induced tokens of column layer i; and what `InContext` keeps of the rows.
        """
        x = self._table(support.x)
        phi = self.features.measure(x, support.mask)
        cells = self.embed(self.features(x, phi)) + self.embed_label(self._label_codes(x, support))[:, None]
        for i, layer in enumerate(self.columns):
            phi[f"column.{i}"] = (induced := layer.read(cells, support.mask))
            cells = layer(cells, induced)
        if descriptor is not None:
            phi["descriptor"] = descriptor
        rows = self._rows(cells, phi)
        phi["centre"], phi["size"] = _spread(rows, support.mask)
        tokens, known = self.labels.support(self._tokens(rows, phi), support)
        return phi | known | self.transformer.write(tokens, support.mask[:, None]) | {"mask": support.mask}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        x = self._table(x)
        t, m, d = x.shape
        if d != phi["exists"].shape[1]:
            raise ValueError(f"expected x of the {phi['exists'].shape[1]} columns of the support, got {d}")
        if self.training or t * m * d <= MOST_CELLS:
            return self._answer(phi, x)
        return torch.cat([self._answer(phi, part) for part in x.split(max(1, MOST_CELLS // (t * d)), dim=1)], dim=1)

    def _answer(self, phi: Phi, x: Tensor) -> Tensor:
        cells = self.embed(self.features(x, phi))
        for i, layer in enumerate(self.columns):
            cells = layer(cells, phi[f"column.{i}"])
        tokens, guess = self.labels.query(self._tokens(self._rows(cells, phi), phi), phi)
        read = self.transformer.read(phi, tokens + self.null_label, phi["mask"][:, None])
        return self.labels.read(read, guess, phi)

    def _table(self, x: Tensor) -> Tensor:
        return x.flatten(2).to(next(self.parameters()).dtype)

    def _label_codes(self, x: Tensor, support: Examples) -> Tensor:
        """Labels as the columns see them, `[T, N, label_size]`: of classes their number, see `class_numbers`."""
        target = self.spec.target
        if target.n_classes is None:
            return target.encode(support.y, support.mask).to(x.dtype)
        number = class_numbers(x, support.y, support.mask, target.n_classes).gather(1, support.y)
        return (one_hot(number, target.n_classes) & support.mask[..., None]).to(x.dtype)

    def _rows(self, cells: Tensor, phi: Phi) -> Tensor:
        """Cells `[T, D, N, E]` to tokens of rows `[T, N, width]`."""
        t, d, n, e = cells.shape
        if not self.training and t * n * d > MOST_CELLS:
            size = max(1, MOST_CELLS // (t * d))
            return torch.cat([self._rows(part, phi) for part in cells.split(size, dim=2)], dim=1)
        cells = cells.transpose(1, 2).reshape(t * n, d, e)
        exists = phi["exists"][:, None].expand(-1, n, -1).reshape(t * n, 1, d)
        tokens = torch.cat([self.summaries.to(cells.dtype).expand(t * n, -1, -1), cells], dim=1)
        k = len(self.summaries)
        visible = F.pad(exists, (k, 0), value=True)
        for i, layer in enumerate(self.rows):
            keys, values = cast(TransformerLayer, layer).keys_values(tokens)
            tokens = layer(tokens[:, :k] if i + 1 == len(self.rows) else tokens, keys, values, visible)
        rows: Tensor = self.embed_row(self.row_norm(tokens).reshape(t, n, k * e))
        return rows

    def _tokens(self, rows: Tensor, phi: Phi) -> Tensor:
        """Tokens of rows around their mean over the support, in which what sets rows apart is all that is left."""
        tokens: Tensor = (rows - phi["centre"]) / phi["size"]
        return tokens if self.embed_descriptor is None else tokens + self.embed_descriptor(phi["descriptor"])[:, None]


class _Induced(nn.Module):
    """Attention of the cells of a column to learned tokens that have read the column's support."""

    decayed = ()

    def __init__(self, width: int, heads: int, induced: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(induced, width) * 0.5)
        self.reading = TransformerLayer(width, heads, 2 * width, "gelu", sink=True)
        self.telling = TransformerLayer(width, heads, 2 * width, "gelu")

    def read(self, cells: Tensor, mask: Tensor) -> Tensor:
        """The learned tokens after reading the support's cells `[T, D, N, E]`, mask `[T, N]`: `[T, D, I, E]`."""
        t, d, n, e = cells.shape
        flat = cells.reshape(t * d, n, e)
        visible = mask[:, None].expand(-1, d, -1).reshape(t * d, 1, n)
        tokens = self.tokens.to(flat.dtype).expand(t * d, -1, -1)
        read: Tensor = self.reading(tokens, *self.reading.keys_values(flat), visible)
        return read.view(t, d, *read.shape[1:])

    def forward(self, cells: Tensor, induced: Tensor) -> Tensor:
        """Cells `[T, D, N, E]` after attending to the learned tokens of their column."""
        flat, tokens = cells.flatten(0, 1), induced.flatten(0, 1)
        visible = torch.ones(1, 1, tokens.shape[1], dtype=torch.bool, device=flat.device)
        told: Tensor = self.telling(flat, *self.telling.keys_values(tokens), visible)
        return told.view(cells.shape)


def _spread(rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the rows of a support `[T, N, D]` and the root mean square around it: `[T, 1, D]`, `[T, 1, 1]`."""
    centre = masked_mean(rows.float(), mask)[:, None]
    square = masked_mean((rows.float() - centre).square().mean(-1, keepdim=True), mask)[:, None]
    return centre, torch.where(square > SMALLEST, square, 1).sqrt()


def _heads(width: int) -> int:
    """Heads of 16 features, if these divide the width."""
    return width // 16 if width % 16 == 0 else 1
