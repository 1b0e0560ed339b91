"""Sinusoids, harmonics, sawtooths and steps are what their formulas say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from function_cases import UNLIKELY, whole
from scipy.stats import kstest

from metabox.tasks import (
    Harmonics,
    Sawtooth,
    Sinusoids,
    Steps,
)
from metabox.tasks.place import Place


def test_sinusoids_are_those_of_finn_et_al():
    """Fit a sin(x - b) = a cos(b) sin(x) - a sin(b) cos(x), which is linear: no residual, and a, b of their ranges."""
    x, y = whole(Sinusoids().sample(Place(2000, "train")))
    assert x.shape == (2000, 20, 1)
    assert kstest(x.ravel(), "uniform", (-5, 10)).pvalue > UNLIKELY
    design = np.concatenate([np.sin(x), -np.cos(x)], -1)
    w = np.stack([np.linalg.lstsq(design[t], y[t], rcond=None)[0] for t in range(len(x))])
    np.testing.assert_allclose((design * w[:, None]).sum(-1), y, atol=1e-5)
    assert kstest(np.hypot(*w.T), "uniform", (0.1, 4.9)).pvalue > UNLIKELY
    assert kstest(np.arctan2(w[:, 1], w[:, 0]), "uniform", (0, np.pi)).pvalue > UNLIKELY


def test_harmonics_have_two_frequencies_one_twice_the_other():
    """Search the frequency; at the right one a linear fit of four terms leaves no residual."""
    x, y = whole(Harmonics(n_support=30).sample(Place(6, "train")))
    for t in range(6):
        residuals = []
        for w in np.linspace(5, 7, 2001):
            angle = w * x[t]
            design = np.concatenate([np.sin(angle), np.cos(angle), np.sin(2 * angle), np.cos(2 * angle)], 1)
            residuals.append(np.abs(design @ np.linalg.lstsq(design, y[t], rcond=None)[0] - y[t]).max())
        assert min(residuals) < 5e-3 * np.abs(y[t]).max()  # the frequency tried is within 0.0005 of the true one
        assert np.median(residuals) > 0.05 * np.abs(y[t]).max()


def test_inputs_of_harmonics_are_normal_around_a_centre_of_the_task():
    x, _ = whole(Harmonics(n_support=30).sample(Place(500, "train")))
    centres = x.mean((1, 2))
    assert kstest(centres, "uniform", (-4, 8)).pvalue > UNLIKELY
    spread = (x - centres[:, None, None]) * math.sqrt(40 / 39)
    assert kstest(spread[:, 0, 0], "norm").pvalue > UNLIKELY


def test_a_sawtooth_rises_at_its_frequency_and_falls_by_one():
    x, y = whole(Sawtooth(frequency=(2.0, 4.0), n_support=200, n_query=200).sample(Place(50, "train")))
    assert 0 <= y.min() <= y.max() < 1
    for t in range(len(x)):
        order = np.argsort(x[t, :, 0])
        gap, rise = np.diff(x[t, order, 0]), np.diff(y[t, order])
        slope = np.median(rise[gap > 1e-4] / gap[gap > 1e-4])
        assert 2 <= abs(slope) <= 4
        turns = (rise - slope * gap).round(3)
        assert set(np.abs(turns)) == {0.0, 1.0}
    starts = Sawtooth(frequency=1.0, low=0.0, high=1e-6).sample(Place(2000, "train")).query.y[:, 0, 0]
    assert kstest(starts.numpy(), "uniform").pvalue > UNLIKELY


def test_a_sawtooth_of_two_inputs_varies_along_one_direction():
    x, y = whole(Sawtooth(frequency=0.2, dim=2, low=0.0, high=1.0, n_support=0).sample(Place(30, "train")))
    within = [t for t in range(len(x)) if np.ptp(y[t]) < 0.5]  # one tooth, where it is linear
    assert len(within) > 10
    for t in within:
        design = np.concatenate([x[t], np.ones((len(x[t]), 1))], 1)
        (*gradient, _), residual, *_ = np.linalg.lstsq(design, y[t], rcond=None)
        assert np.hypot(*gradient) == pytest.approx(0.2, rel=1e-4)
        assert residual[0] < 1e-10


def test_steps_have_as_many_levels_as_steps_and_one():
    x, y = whole(Steps(n_steps=(0, 3), n_support=500, n_query=500).sample(Place(400, "train")))
    counts, first = np.zeros(4), []
    for t in range(len(x)):
        along = y[t, np.argsort(x[t, :, 0])]
        levels = along[np.concatenate([[True], np.diff(along) != 0])]
        counts[len(levels) - 1] += 1
        first.append(levels[0])
    assert (np.abs(counts - 100) < 5 * math.sqrt(400 * 3 / 16)).all()
    assert kstest(first, "norm").pvalue > UNLIKELY


@pytest.mark.parametrize("make", [Sinusoids, Harmonics, Sawtooth, Steps])
def test_noise_is_added_to_every_target(make):
    (_, clean), (_, noisy) = (whole(make(noise=noise).sample(Place(200, "train"))) for noise in (0.0, 0.3))
    noise = noisy - clean
    noise = noise[noise != 0]  # padding
    assert kstest(noise[:5000] / 0.3, "norm").pvalue > UNLIKELY
