"""Ridge regression over features of columns, in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from metabox.nn import additive
from metabox.nn.additive import fit_additive, predict_additive
from metabox.nn.tabular import CellFeatures

T, N, D = 2, 12, 3


def measured(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    features = CellFeatures()
    made: torch.Tensor = features(x, features.measure(x, mask))
    return made


def drawn(n: int = N, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    mask = torch.arange(n) < torch.tensor([[n], [n - 4]])
    return torch.randn(T, n, D, dtype=torch.float64), torch.randn(T, n, 2, dtype=torch.float64), mask


def test_each_row_is_predicted_by_the_ridge_regression_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additive, "PENALTIES", ((3.0, 3.0),))
    x, y, mask = drawn()
    features = measured(x, mask)
    guess, weights = fit_additive(features, y, mask)
    for t in range(T):
        rows = features[t].transpose(0, 1).flatten(1)[mask[t]].numpy()
        labels = y[t][mask[t]].numpy()
        whole = Ridge(3.0).fit(rows, labels)
        assert predict_additive(features, weights)[t][mask[t]].numpy() == pytest.approx(whole.predict(rows), abs=1e-8)
        for i in range(len(rows)):
            others = Ridge(3.0).fit(np.delete(rows, i, 0), np.delete(labels, i, 0))
            assert guess[t, i].numpy() == pytest.approx(others.predict(rows[i : i + 1])[0], abs=1e-8)
    assert not guess[~mask].any()


def test_the_penalty_is_chosen_for_each_task_by_what_the_other_rows_predict() -> None:
    x, _, _ = drawn(200)
    mask = torch.ones(T, 200, dtype=torch.bool)
    linear, curved = x[..., :1].sum(2, keepdim=True), x[..., :1].square()
    y = torch.cat([linear[:1], curved[1:]])
    guess, _ = fit_additive(measured(x, mask), y, mask)
    assert r2_score(y[0], guess[0]) > 0.99
    assert r2_score(y[1], guess[1]) > 0.7, "a parabola needs the places"
    noise = torch.randn_like(y)
    guess, _ = fit_additive(measured(x, mask), noise, mask)
    assert float(guess.std()) < 0.3 * float(noise.std()), "where nothing can be learned the mean is said"


@pytest.mark.parametrize("n", [0, 1])
def test_supports_of_hardly_a_row_say_nothing_of_it(n: int) -> None:
    x, y, _ = drawn(5)
    mask = torch.arange(5).expand(T, -1) < n
    guess, weights = fit_additive(measured(x, mask), y, mask)
    assert not guess.any()
    assert weights.isfinite().all()
