"""Mixtures of predictions against torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, Normal

from metabox.learners.base import within
from metabox.targets import (
    Bars,
    Binary,
    Classes,
    Direction,
    Huber,
    Laplace,
    Mixture,
    Part,
    Parts,
    Quantiles,
    Reals,
    Target,
)
from metabox.targets.vector import RealVector
from metabox.testing import SPECS

CLASSES, REALS, BINARY = (SPECS[name] for name in ("classes of vectors", "reals", "binary labels"))
TARGETS: list[Target] = [
    Classes(3),
    Binary(2),
    *(Reals(2), Reals(2, noise=0.5), Bars(2, 7), Mixture(2, 3)),
    *(Laplace(2), Huber(2, 0.5), Direction(3), Quantiles(2, (0.9,)), Quantiles(2, (0.1, 0.5, 0.9))),
    Parts((Part("kind", Classes(3)), Part("place", Reals(2)))),
    Parts((Part("kind", Classes(3)), Part("depth", Laplace(1)), Part("normals", Direction(3)))),
]


def test_a_mixture_of_equals_is_each_of_them() -> None:
    for spec in (CLASSES, REALS, BINARY):
        likelihood = spec.target
        params = 3 * torch.randn(3, 1, 5, likelihood.n_params)
        got = likelihood.mixture(params.expand(-1, 7, -1, -1))
        wanted = params[:, 0].log_softmax(-1) if spec.target.n_classes is not None else params[:, 0]
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_a_mixture_of_normals_has_its_mean_and_variance_down_to_the_smallest_scale() -> None:
    likelihood = Reals(REALS.target.size, min_scale=0.1)
    params = torch.randn(3, 9, 5, 4)
    params[0] = torch.tensor([1.0, -1.0, -30.0, -30.0])  # all alike, and as sharp as can be
    means, scales = likelihood.mean_and_scale(params)
    mean, scale = likelihood.mean_and_scale(likelihood.mixture(params))
    mixture = MixtureSameFamily(
        Categorical(torch.ones(3, 5, 2, 9)), Normal(means.movedim(1, -1), scales.movedim(1, -1))
    )
    torch.testing.assert_close(mean, mixture.mean)
    torch.testing.assert_close(scale, mixture.stddev, rtol=1e-4, atol=1e-5)
    fixed = Reals(REALS.target.size, noise=0.3)
    torch.testing.assert_close(fixed.mixture(params[..., :2]), params[..., :2].mean(1))


def test_a_mixture_over_some_classes_is_that_of_their_distributions_and_keeps_a_gradient() -> None:
    likelihood = CLASSES.target
    logits = (3 * torch.randn(3, 9, 5, 3)).requires_grad_()
    have = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    got = likelihood.mixture(within(logits, have))
    for t, classes in enumerate(([0, 1], [0, 1, 2], [0])):
        wanted = Categorical(logits=logits[t][..., classes]).probs.mean(0)
        torch.testing.assert_close(got[t][:, classes].exp(), wanted)
    got[have[:, None].expand_as(got)].sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_mixture_of_yes_and_no_is_the_mean_probability() -> None:
    logits = 3 * torch.randn(3, 9, 5, 2)
    wanted = Bernoulli(logits=logits).probs.mean(1)
    torch.testing.assert_close(BINARY.target.mixture(logits).sigmoid(), wanted)


@pytest.mark.parametrize("target", [Laplace(2), Huber(2, 0.5), Quantiles(2, (0.9,)), Quantiles(2, (0.1, 0.5, 0.9))])
def test_a_mixture_of_one_shape_is_about_the_mean_of_all_locations_in_the_units_of_y(target: RealVector) -> None:
    """Predictions in units of their own, as those of learners that scale y by each support."""
    own, weights = torch.randn(2, 3, 4, target.n_params), torch.rand(2, 3).softmax(-1)
    location, scale = torch.randn(2, 3, 1, 2), torch.full((2, 3, 1, 2), 2.0)
    params = target.in_units(own, location, scale)
    got = target.mixture(params, weights)
    wanted = (target.mean(params) * weights[..., None, None]).sum(1)
    torch.testing.assert_close(target.mean(got), wanted, rtol=1e-4, atol=1e-4)


def test_a_mixture_of_directions_is_the_direction_of_their_sum() -> None:
    params = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]])[None, :, None]  # of any length: east, and north
    weights = torch.tensor([[0.8, 0.2]])
    target = Direction(3)
    wanted = torch.tensor([0.8, 0.2, 0.0]) / math.hypot(0.8, 0.2)
    torch.testing.assert_close(target.mean(target.mixture(params, weights))[0, 0], wanted)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: type(target).__name__)
def test_weights_are_the_shares_of_the_predictions(target: Target) -> None:
    """A weight of 2/3 is the same as two of three equal ones, and 0 is none."""
    params = torch.randn(2, 3, 4, target.n_params)
    weights = torch.tensor([[2 / 3, 1 / 3, 0.0], [0.0, 1.0, 0.0]])
    got = target.mixture(params, weights)
    torch.testing.assert_close(got[:1], target.mixture(params[:1, [0, 0, 1]]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[1:], target.mixture(params[1:, [1]]), rtol=1e-4, atol=1e-4)
