"""Cells of a table to tokens of its rows: by attention within columns, then within rows."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.nn.tabular import FEATURES, in_order, shared
from metabox.nn.transformer import TransformerLayer

MOST_CELLS = 2**18
"""Cells at a time in evaluation, for memory; the result does not depend on it."""

Known = dict[str, Tensor]


class ColumnsThenRows(nn.Module):
    """Induced attention within columns, whose support shows its labels; then summaries attend to a row's cells.

    To the result is added the sum of a row's cells, each through the weights of its column's place, as in the first
    TabPFN (Hollmann et al. 2023), which tells rows apart from the first step of training on; but a place is not that
    in the table, but in an order that does not depend on it, see `column_numbers`.

    Args:
        columns: of the widest table.
        label_size: L.
        cell: E.
        width: of a row's token.
        depth: layers within columns.
        induced: I, learned tokens of each.
        row_depth: layers within rows, the last of which is of the summaries only.
        summaries: learned tokens that sum up a row.
    """

    decayed: tuple[str, ...] = ()

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
        self.norm = nn.LayerNorm(cell, bias=False)  # a bias would be alike in all rows, which are centred
        self.out = nn.Linear(summaries * cell, width, bias=False)
        self.places = nn.Parameter(torch.randn(columns, FEATURES, width) * 0.5)

    def write(self, features: Tensor, cells: Tensor, labels: Tensor, mask: Tensor, phi: Known) -> tuple[Tensor, Known]:
        """Tokens of the rows of a support `[T, N, width]`, and entries for phi.

        Args:
            features: of its cells, `[T, D, N, F]`, see `CellFeatures`.
            cells: their tokens, `[T, D, N, E]`.
            labels: its labels as numbers `[T, N, L]`.
            mask: which rows there are `[T, N]`.
            phi: has `exists` and `place [T, D]` of its columns, see `column_numbers`.

        Returns:
            And `column.i [T, D, I, E]`, what the learned tokens of layer i within columns have read.
        """
        known: Known = {}
        cells = cells + self.embed_label(labels)[:, None]
        for i, layer in enumerate(self.columns):
            known[f"column.{i}"] = (induced := cast(Induced, layer).read(cells, mask))
            cells = layer(cells, induced)
        return self._sums(features, phi) + self._rows(cells, phi["exists"]), known

    def read(self, features: Tensor, cells: Tensor, phi: Known) -> Tensor:
        """Tokens of other rows `[T, M, width]`; phi has the entries too."""
        for i, layer in enumerate(self.columns):
            cells = layer(cells, phi[f"column.{i}"])
        return self._sums(features, phi) + self._rows(cells, phi["exists"])

    def _sums(self, features: Tensor, phi: Known) -> Tensor:
        weights = shared(self.places.to(features.dtype)[in_order(phi["place"])], phi["place"])
        weights = weights * phi["exists"][..., None, None]
        return torch.einsum("tdnf,tdfw->tnw", features, weights)

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
            tokens = layer(tokens[:, :k] if i + 1 == len(self.rows) else tokens, keys, values, visible)
        rows: Tensor = self.out(self.norm(tokens).reshape(t, n, k * e))
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


def _layer(width: int, sink: bool = False) -> TransformerLayer:
    """With heads of 16 features, if these divide the width."""
    return TransformerLayer(width, width // 16 if width % 16 == 0 else 1, 2 * width, "gelu", sink=sink)
