"""The shortest convex combination of gradients, by the conditions of Karush, Kuhn and Tucker."""

from __future__ import annotations

import pytest
import torch

from metabox.multitask.surgery import shortest

A, GENERATOR = torch.ones(1, 6), torch.Generator().manual_seed(3)
ROWS = {
    **{f"{k} rows": torch.randn(k, 40, generator=GENERATOR) for k in (2, 3, 10, 32)},
    "more rows than numbers": torch.randn(12, 3, generator=GENERATOR),
    "one on both sides of zero": torch.tensor([[1.0], [-3.0], [2.0]]),
    "equal rows": A.expand(4, 6),
    "a row of zeros": torch.cat([A, 0 * A, -2 * A]),
    "only zeros": torch.zeros(3, 6),
    "nearly parallel": A + 1e-4 * torch.randn(5, 6, generator=GENERATOR),
    "of scales .001 to 1,000": torch.randn(6, 40, generator=GENERATOR) * 10.0 ** torch.arange(-3, 3)[:, None],
}


@pytest.mark.parametrize("name", ROWS)
def test_no_convex_combination_of_the_gradients_is_shorter(name: str) -> None:
    rows = ROWS[name].double()
    gramian = rows @ rows.T
    w = shortest(gramian)
    slope, tolerance = gramian @ w, 1e-6 * float(gramian.diag().max()) + 1e-12
    assert float(w.sum()) == pytest.approx(1)
    assert w.min() >= 0
    multiplier = w @ slope  # w^T G w: no slope is below it, and those of rows in use are equal to it
    assert slope.min() >= multiplier - tolerance
    assert ((slope - multiplier).abs()[w > 1e-9] <= tolerance).all()


def test_two_rows_by_hand() -> None:
    """Between (1, 0) and (0, 2) the point next to zero has weights 4 / 5 and 1 / 5."""
    assert shortest(torch.tensor([[1.0, 0.0], [0.0, 4.0]])).tolist() == pytest.approx([0.8, 0.2])
