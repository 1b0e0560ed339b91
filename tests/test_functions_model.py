"""The model `functions` that ships: it knows a series from a few points, in any unit, and says how sure it is."""

from __future__ import annotations

import numpy as np
import pytest

from metabox import FewShotRegressor, Model
from metabox.discover import models

X = np.linspace(0, 6, 40)
Y = np.sin(2 * X) + 0.3 * X
SHOWN, ASKED = np.arange(40) % 3 > 0, np.arange(40) % 3 == 0


def answers(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    regressor = FewShotRegressor("functions").fit(x[SHOWN, None], y[SHOWN])
    mean, std = regressor.predict(x[ASKED, None], return_std=True)
    return mean, std


def test_it_is_small_and_has_a_licence_and_a_card_with_a_table() -> None:
    path = models()["functions"]
    model = Model.load(path)
    assert path.stat().st_size < 1.5e6
    assert (model.name, model.licence) == ("functions", "MIT")
    assert "| co2 |" in model.card
    assert model.spec.scale == "support"


def test_it_interpolates_a_smooth_series_and_is_as_sure_as_it_is_right() -> None:
    mean, std = answers(X, Y)
    assert np.abs(mean - Y[ASKED]).max() < 0.3
    assert (std > 0).all()
    assert (np.abs(mean - Y[ASKED]) < 3 * std).all()
    noisy = Y + np.random.default_rng(0).normal(size=40)
    assert answers(X, noisy)[1].mean() > 3 * std.mean()


@pytest.mark.parametrize(("a", "b", "c", "d"), [(365.0, -7000.0, 1.0, 5000.0), (1e-3, 5.0, 40.0, 3.0)])
def test_other_units_of_x_and_y_give_the_same_answers_in_them(a: float, b: float, c: float, d: float) -> None:
    mean, std = answers(X, Y)
    other, deviation = answers(a * X + b, c * Y + d)
    np.testing.assert_allclose((other - d) / c, mean, atol=1e-3 * Y.std())
    np.testing.assert_allclose(deviation / c, std, rtol=1e-3, atol=1e-3 * Y.std())


@pytest.mark.parametrize("n", [1, 2, 3, 500])
def test_any_number_of_points_and_any_distance_give_finite_answers(n: int) -> None:
    x = np.arange(n, dtype=float)[:, None]
    regressor = FewShotRegressor("functions").fit(x, np.cos(x[:, 0]))
    mean, std = regressor.predict(np.array([[-1e3], [0.5], [1e3]]), return_std=True)
    assert np.isfinite(mean).all()
    assert (std > 0).all()
    assert np.isfinite(regressor.predict_quantiles(x[:1], (0.01, 0.99))).all()
