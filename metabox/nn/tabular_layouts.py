"""Cells of a table to tokens of its rows: by attention within columns and rows, by both in turn, or at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.nn.sets import masked_mean
from metabox.nn.tabular import FEATURES
from metabox.nn.transformer import TransformerLayer

MOST_CELLS = 2**18
"""Cells at a time in evaluation, for memory; the result does not depend on it."""

Known = dict[str, Tensor]


class Layout(nn.Module, ABC):
    """Maps cells to one token for each row; what it has read in the support is a part of phi."""

    decayed: tuple[str, ...] = ()

    @abstractmethod
    def write(self, features: Tensor, cells: Tensor, labels: Tensor, mask: Tensor, phi: Known) -> tuple[Tensor, Known]:
        """Tokens of the rows of a support `[T, N, width]`, and entries for phi.

        Args:
            features: of its cells, `[T, D, N, F]`, see `CellFeatures`.
            cells: tokens of its columns, or of groups of them, `[T, G, N, E]`.
            labels: its labels as numbers `[T, N, L]`.
            mask: which rows there are `[T, N]`.
            phi: has `exists` and `place [T, D]` of its columns, see `column_numbers`, and `tokens [T, G]`, which groups
                have a column.
        """

    @abstractmethod
    def read(self, features: Tensor, cells: Tensor, phi: Known) -> Tensor:
        """Tokens of other rows `[T, M, width]`; phi has the entries too."""


class ColumnsThenRows(Layout):
    """Induced attention within columns, whose support shows its labels; then summaries attend to a row's cells.

    Entries of phi: `column.i [T, G, I, E]`, what the learned tokens of layer i have read.

    Args:
        columns: of the widest table.
        label_size: L.
        cell: E.
        width: of a row's token.
        depth: layers within columns.
        induced: I, learned tokens of each.
        row_depth: layers within rows, the last of which is of the summaries only.
        summaries: learned tokens that sum up a row; with 0 the mean of its cells does.
    """

    def __init__(
        self,
        columns: int,
        label_size: int,
        cell: int,
        width: int,
        depth: int,
        induced: int,
        row_depth: int,
        summaries: int,
    ) -> None:
        super().__init__()
        self.embed_label = nn.Linear(label_size, cell)
        self.columns = nn.ModuleList(Induced(cell, induced) for _ in range(depth))
        self.summaries = nn.Parameter(torch.randn(summaries, cell) * 0.1)
        self.rows = nn.ModuleList(_layer(cell, sink=True) for _ in range(row_depth))
        self.norm = nn.LayerNorm(cell)
        self.out = nn.Linear(max(summaries, 1) * cell, width, bias=False)  # a bias would be alike in all rows
        self.at_once = RowsAtOnce(columns, width)

    def write(self, features: Tensor, cells: Tensor, labels: Tensor, mask: Tensor, phi: Known) -> tuple[Tensor, Known]:
        known: Known = {}
        direct = self.at_once.read(features, cells, phi)
        cells = cells + self.embed_label(labels)[:, None]
        for i, layer in enumerate(self.columns):
            known[f"column.{i}"] = (induced := cast(Induced, layer).read(cells, mask))
            cells = layer(cells, induced)
        return direct + self._rows(cells, phi["tokens"]), known

    def read(self, features: Tensor, cells: Tensor, phi: Known) -> Tensor:
        direct = self.at_once.read(features, cells, phi)
        for i, layer in enumerate(self.columns):
            cells = layer(cells, phi[f"column.{i}"])
        return direct + self._rows(cells, phi["tokens"])

    def _rows(self, cells: Tensor, exists: Tensor) -> Tensor:
        t, d, n, e = cells.shape
        if not self.training and t * n * d > MOST_CELLS:
            parts = cells.split(max(1, MOST_CELLS // (t * d)), dim=2)
            return torch.cat([self._rows(part, exists) for part in parts], dim=1)
        k = len(self.summaries)
        flat = cells.transpose(1, 2).reshape(t * n, d, e)
        tokens = torch.cat([self.summaries.to(flat.dtype).expand(t * n, -1, -1), flat], dim=1)
        visible = F.pad(exists[:, None].expand(-1, n, -1).reshape(t * n, 1, d), (k, 0), value=True)
        for i, layer in enumerate(self.rows):
            keys, values = cast(TransformerLayer, layer).keys_values(tokens)
            tokens = layer(tokens[:, :k] if k and i + 1 == len(self.rows) else tokens, keys, values, visible)
        if not k:
            tokens = masked_mean(tokens, visible[:, 0])
        rows: Tensor = self.out(self.norm(tokens).reshape(t, n, max(k, 1) * e))
        return rows


class Induced(nn.Module):
    """Attention of the cells of a column to learned tokens that have read the column's support (Lee et al. 2019)."""

    decayed = ()

    def __init__(self, width: int, induced: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(induced, width) * 0.5)
        self.reading = _layer(width, sink=True)
        self.telling = _layer(width)

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
        t, d, n, _ = cells.shape
        if not self.training and t * n * d > MOST_CELLS:
            parts = cells.split(max(1, MOST_CELLS // (t * d)), dim=2)
            return torch.cat([self(part, induced) for part in parts], dim=2)
        flat, tokens = cells.flatten(0, 1), induced.flatten(0, 1)
        visible = torch.ones(1, 1, tokens.shape[1], dtype=torch.bool, device=flat.device)
        told: Tensor = self.telling(flat, *self.telling.keys_values(tokens), visible)
        return told.view(cells.shape)


class CellsInTurn(Layout):
    """A token a cell, and one more in each row for its label: attention within rows and within columns in turn.

    As in the second version of TabPFN (Hollmann et al. 2025). The label's token is the row's.

    Entries of phi: `cells.keys.i`, `cells.values.i [T, G + 1, heads, N, E / heads]` of layer i within columns, and
    `rows`, the mask.

    Args:
        label_size: L.
        cell: E.
        width: of a row's token.
        depth: pairs of layers.
    """

    def __init__(self, label_size: int, cell: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed_label = nn.Linear(label_size, cell)
        self.unknown = nn.Parameter(torch.randn(cell) * 0.1)
        self.within_rows = nn.ModuleList(_layer(cell, sink=True) for _ in range(depth))
        self.within_columns = nn.ModuleList(_layer(cell, sink=True) for _ in range(depth))
        self.norm = nn.LayerNorm(cell)
        self.out = nn.Linear(cell, width, bias=False)

    def write(self, features: Tensor, cells: Tensor, labels: Tensor, mask: Tensor, phi: Known) -> tuple[Tensor, Known]:
        return self._all(torch.cat([self.embed_label(labels)[:, None], cells], 1), phi["tokens"], mask, None)

    def read(self, features: Tensor, cells: Tensor, phi: Known) -> Tensor:
        t, _, m, e = cells.shape
        tokens = torch.cat([self.unknown.to(cells.dtype).expand(t, 1, m, e), cells], 1)
        return self._all(tokens, phi["tokens"], phi["rows"], phi)[0]

    def _all(self, tokens: Tensor, exists: Tensor, mask: Tensor, phi: Known | None) -> tuple[Tensor, Known]:
        """All layers; without phi the tokens are those of the support itself."""
        t, d, n, e = tokens.shape
        known: Known = {"rows": mask}
        in_row = F.pad(exists, (1, 0), value=True)[:, None].expand(-1, n, -1).reshape(t * n, 1, d)
        in_column = mask[:, None].expand(-1, d, -1).reshape(t * d, 1, -1)
        for i, (by_row, by_column) in enumerate(zip(self.within_rows, self.within_columns, strict=True)):
            flat = tokens.transpose(1, 2).reshape(t * n, d, e)
            flat = by_row(flat, *cast(TransformerLayer, by_row).keys_values(flat), in_row)
            flat = flat.view(t, n, d, e).transpose(1, 2).reshape(t * d, n, e)
            names = f"cells.keys.{i}", f"cells.values.{i}"
            if phi is None:
                pair = cast(TransformerLayer, by_column).keys_values(flat)
                known |= {name: part.view(t, d, *part.shape[1:]) for name, part in zip(names, pair, strict=True)}
            keys, values = (((phi or known)[name]).flatten(0, 1) for name in names)
            tokens = by_column(flat, keys, values, in_column).view(t, d, n, e)
        rows: Tensor = self.out(self.norm(tokens[:, 0]))
        return rows, known


class RowsAtOnce(Layout):
    """A token a row, without attention within it: the sum of its cells, each through the weights of its column's place.

    As in the first TabPFN (Hollmann et al. 2023); but a column's place is not that in the table, but in an order that
    does not depend on it, see `column_numbers`.

    Args:
        columns: places.
        width: of a row's token.
    """

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(columns, FEATURES, width) * 0.5)

    def write(self, features: Tensor, cells: Tensor, labels: Tensor, mask: Tensor, phi: Known) -> tuple[Tensor, Known]:
        return self.read(features, cells, phi), {}

    def read(self, features: Tensor, cells: Tensor, phi: Known) -> Tensor:
        weights = self.places.to(features.dtype)[phi["place"]] * phi["exists"][..., None, None]
        return torch.einsum("tdnf,tdfw->tnw", features, weights)


def _layer(width: int, sink: bool = False) -> TransformerLayer:
    """With heads of 16 features, if these divide the width."""
    return TransformerLayer(width, width // 16 if width % 16 == 0 else 1, 2 * width, "gelu", sink=sink)
