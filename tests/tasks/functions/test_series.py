"""Made-up series: of every kind that the docstring names, halved at random, a pure function of their place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from function_cases import tasks_of
from scipy.stats import kurtosis, skew

from metabox.tasks import Series
from metabox.tasks.place import Place

HALVES = {"n_support": 60, "n_query": 60}


def series(n: int = 400, **options):
    """x and y of whole series, sorted by x, and which points are queries."""
    for sx, sy, qx, qy in tasks_of(Series(**options).sample(Place(n))):
        x, y = np.concatenate([sx[:, 0], qx[:, 0]]), np.concatenate([sy, qy])
        order = np.argsort(x, kind="stable")
        yield x[order], y[order], order >= len(sx)


def test_some_of_the_tasks_at_a_place_are_those_of_the_whole() -> None:
    tasks = Series()
    whole, part = tasks.sample(Place(32, index=3)), tasks.sample(Place(16, index=3, first=16))
    for a, b in ((whole.support, part.support), (whole.query, part.query)):
        n = b.x.shape[1]
        assert torch.equal(a.x[16:, :n] * b.mask[..., None], b.x)
        assert torch.equal(a.y[16:, :n] * b.mask[..., None], b.y)
        assert torch.equal(a.mask[16:, :n], b.mask)


def test_sizes_are_those_asked_for_and_all_numbers_are_finite_and_near_scale_one() -> None:
    episodes = Series().sample(Place(800))
    for part in (episodes.support, episodes.query):
        sizes = part.mask.sum(1)
        assert 3 <= sizes.min() < 10
        assert 95 < sizes.max() <= 100
        assert part.y.isfinite().all()
        assert part.x.isfinite().all()
    for _, y, _ in series(200, **HALVES):
        assert abs(y.mean()) < 0.6
        assert y.std() == pytest.approx(1, abs=0.6)


def test_most_inputs_are_a_regular_grid_of_which_a_random_part_is_asked_for() -> None:
    regular, shares, runs = 0, [], []
    for x, _, asked in series(400, **HALVES):
        gap = np.diff(x)
        regular += bool(np.ptp(gap) < 1e-5)
        shares.append(asked.mean())
        runs.append(np.max(np.diff(np.flatnonzero(np.concatenate([[True], ~asked, [True]])))) - 1)
    assert 0.5 < regular / 400 < 0.7
    assert set(shares) == {0.5}
    assert 0.03 < np.mean(np.array(runs) > 15) < 0.15  # blocks of neighbours; by chance such a run is rare


def test_there_are_smooth_and_rough_skewed_heavy_tailed_and_rounded_ones() -> None:
    drawn = [y for _, y, _ in series(400, **HALVES)]
    rough = np.array([np.square(np.diff(y)).mean() / (2 * y.var()) for y in drawn])  # 1 for white noise
    assert np.mean(rough < 0.02) > 0.1
    assert np.mean(rough > 0.7) > 0.1
    assert np.mean([skew(y) > 1.5 for y in drawn]) > 0.05
    assert np.mean([skew(y) < -1 for y in drawn]) > 0.01
    assert np.mean([kurtosis(np.diff(y)) > 4 for y in drawn]) > 0.1
    assert np.mean([len(np.unique(y.round(5))) < 60 for y in drawn]) > 0.05


def test_some_series_repeat_and_others_follow_their_last_value() -> None:
    def correlation(y: np.ndarray, lag: int) -> float:
        return float(np.corrcoef(y[:-lag], y[lag:])[0, 1])

    drawn = [y for _, y, _ in series(300, **HALVES)]
    detrended = [y - np.polyval(np.polyfit(np.arange(120), y, 3), np.arange(120)) for y in drawn]
    repeats = [
        max(correlation(y, lag) for lag in range(8, 40)) > 0.7 > 0 > min(correlation(y, k) for k in range(4, 20))
        for y in detrended
    ]
    assert np.mean(repeats) > 0.05
    assert np.mean([correlation(y, 1) > 0.9 for y in drawn]) > 0.2


@pytest.mark.parametrize("options", [{"n_support": -1}, {"n_query": 0}, {"max_points": 5}])
def test_senseless_options_are_named(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Series(**options)
