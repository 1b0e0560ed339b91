"""A mixture of normals: its density, moments and quantiles, in any unit."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from metabox import Mixture
from metabox.learners import CNP, TNPD, InContext
from metabox.learners.base import Learner
from metabox.targets import TaskSpec
from metabox.testing import CHECKS

SPEC = TaskSpec((2,), Mixture(1, n_components=3))
SKIPPED = ("check_it_learns_a_small_family_of_tasks", "check_bf16_stays_close_to_float32")


@pytest.mark.parametrize("make", [CNP, TNPD, InContext], ids=lambda make: make.__name__)
@pytest.mark.parametrize("check", sorted(set(CHECKS) - set(SKIPPED)))
def test_learners_take_it_as_any_other_target(make: type[Learner], check: str) -> None:
    CHECKS[check](make, SPEC)


def test_the_density_is_that_of_torch() -> None:
    target, params = Mixture(2, 4, min_scale=0.01), torch.randn(3, 5, 24)
    y = torch.randn(3, 5, 2)
    parts = params.unflatten(-1, (2, 3, 4))
    means = parts[..., 1, :] + torch.linspace(-1, 1, 4)
    each = Normal(means, 0.01 + torch.nn.functional.softplus(parts[..., 2, :]))
    expected = MixtureSameFamily(Categorical(logits=parts[..., 0, :]), each)
    torch.testing.assert_close(target.log_prob(params, y), expected.log_prob(y).sum(-1))
    torch.testing.assert_close(target.mean(params), expected.mean)
    torch.testing.assert_close(target.std(params), expected.stddev)
    below = expected.cdf(target.quantile(params, 0.3))
    torch.testing.assert_close(below, torch.full_like(below, 0.3), atol=1e-4, rtol=0)


def test_in_other_units_the_density_has_the_jacobian() -> None:
    target, params = Mixture(1, 3), torch.randn(1, 1, 9)
    y = torch.linspace(4900, 5100, 400_001, dtype=torch.float64)
    given = target.in_units(params, torch.tensor([5000.0]), torch.tensor([7.0]))
    p = target.log_prob(given.expand(1, len(y), -1), y[None, :, None]).exp()[0].double()
    assert float(p.sum() * (y[1] - y[0])) == pytest.approx(1, abs=2e-3)
    assert float(target.mean(given)) == pytest.approx(float((p * y).sum() / p.sum()), abs=0.05)
    below = p.cumsum(0) / p.sum()
    assert float(target.quantile(given, 0.8)) == pytest.approx(float(y[below > 0.8][0]), abs=0.05)


def test_one_prediction_for_several_has_their_mean_and_variance() -> None:
    target, params = Mixture(1, 3), torch.randn(2, 5, 4, 9)
    one = target.mixture(params)
    means, deviations = target.mean(params), target.std(params)
    torch.testing.assert_close(target.mean(one), means.mean(1))
    variance = deviations.square().mean(1) + means.var(1, correction=0)
    torch.testing.assert_close(target.std(one).square(), variance, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", [{"size": 0}, {"n_components": 0}, {"min_scale": 0.0}])
def test_senseless_options_are_named(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Mixture(**options)  # type: ignore[arg-type]
