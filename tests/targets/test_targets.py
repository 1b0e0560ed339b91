"""Kinds of targets: what `Bars` adds, and what a run does with a target other than its sampler's."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import metabox
from metabox import Bars, Binary, Classes, Parts, Reals
from metabox.learners import CNP, TNPD, ConvCNP, InContext
from metabox.learners.base import Learner
from metabox.targets import Part, TaskSpec
from metabox.tasks import Sinusoids
from metabox.testing import CHECKS

SPEC = TaskSpec((2,), Bars(1, n_bars=12))
SKIPPED = ("check_it_learns_a_small_family_of_tasks", "check_bf16_stays_close_to_float32")


def fitted(y: Tensor, n_bars: int = 20) -> Bars:
    bars = Bars(y.shape[-1], n_bars)
    bars.fit(y[None], torch.ones(1, len(y), dtype=torch.bool))
    return bars


@pytest.mark.parametrize("make", [CNP, TNPD, InContext], ids=lambda make: make.__name__)
@pytest.mark.parametrize("check", sorted(set(CHECKS) - set(SKIPPED)))
def test_a_new_kind_of_target_needs_no_change_to_a_learner(make: type[Learner], check: str) -> None:
    CHECKS[check](make, SPEC)


def test_the_density_of_bars_integrates_to_one_and_its_mean_and_quantiles_are_those_of_the_integral() -> None:
    torch.manual_seed(0)
    bars = fitted(torch.cat([torch.randn(500, 1), 5 + 0.3 * torch.randn(500, 1)]))
    params = torch.randn(20).expand(1, 1, -1)
    y = torch.linspace(-40, 50, 900_001)
    density = bars.log_prob(params.expand(1, len(y), -1), y[None, :, None]).exp()[0]
    below = torch.cumulative_trapezoid(density.double(), y.double())
    assert float(below[-1]) == pytest.approx(1, abs=1e-3)
    assert float(bars.mean(params)) == pytest.approx(float(torch.trapezoid(density * y, y)), abs=1e-2)
    for q in (0.01, 0.3, 0.5, 0.97):
        at = int((below < q).sum())
        assert float(bars.quantile(params, q)) == pytest.approx(float(y[at]), abs=0.02)


def test_each_bar_has_as_many_labels_as_another_and_the_best_logits_are_equal() -> None:
    torch.manual_seed(0)
    y = torch.rand(10_000, 1).pow(3)
    bars = fitted(y)
    bar = torch.searchsorted(bars.statistics.borders[0], y[:, 0].contiguous())
    assert torch.bincount(bar, minlength=20).float().sub(500).abs().max() <= 2


@pytest.mark.parametrize("y", [torch.full((50, 1), 3.0), torch.tensor([[0.0]] * 49 + [[1e6]])])
def test_tied_labels_leave_bars_of_some_width(y: Tensor) -> None:
    bars = fitted(y)
    log_prob = bars.log_prob(torch.zeros(1, len(y), 20), y[None])
    assert log_prob.isfinite().all()
    assert (bars.statistics.borders.diff(dim=-1) > 0).all()


def test_a_mixture_of_bars_has_the_mean_density() -> None:
    params, y = torch.randn(2, 3, 4, 12), torch.randn(2, 4, 1)
    bars = SPEC.target
    each = torch.stack([bars.log_prob(params[:, s], y) for s in range(3)]).exp().mean(0)
    torch.testing.assert_close(bars.log_prob(bars.mixture(params), y).exp(), each)


TASKS = Sinusoids(n_support=5, n_query=5)
OUTER = metabox.OuterLoop(steps=2, n_tasks=4, validate_every=1, n_validation=2, precision="32")


def test_a_run_with_bars_keeps_their_borders_with_the_weights_and_scores_in_nats(tmp_path: Path) -> None:
    learner = metabox.run(TASKS, partial(CNP, width=16), OUTER, target=Bars(1, n_bars=30), out=tmp_path)
    borders = learner.spec.target.statistics.borders  # type: ignore[union-attr]
    assert float(borders[0, 0]) < -1 < 1 < float(borders[0, -1])  # of sinusoids, not of the standard normal
    again = CNP(learner.spec, width=16)
    metabox.tensors.load_weights(again, tmp_path / "best.safetensors")  # type: ignore[attr-defined]
    assert again.spec.target.statistics.borders.equal(borders)  # type: ignore[union-attr]
    scores = metabox.evaluate(learner, TASKS, n_tasks=4)
    assert math.isfinite(scores.mean("nll"))


def test_learners_of_one_spec_have_statistics_of_their_own() -> None:
    one, other = CNP(SPEC), CNP(SPEC)
    one.spec.target.statistics.borders.zero_()  # type: ignore[union-attr]
    assert other.spec.target.statistics.borders.abs().sum() > 0  # type: ignore[union-attr]


@pytest.mark.parametrize("target", [Bars(2), Binary(1), Classes(2)], ids=str)
def test_a_target_for_another_y_is_refused_before_anything_is_written(tmp_path: Path, target: metabox.Target) -> None:
    with pytest.raises(ValueError, match="expected a target for the same y as Reals"):
        metabox.run(TASKS, CNP, OUTER, target=target, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_noise_of_reals_is_an_option_of_the_target() -> None:
    fixed = replace(TASKS.spec, target=Reals(1, noise=0.3))
    assert CNP(fixed).n_params == 1
    assert TASKS.spec.covers(fixed)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Classes(0),
        lambda: Classes(True),
        lambda: Reals(1, noise=-1.0),
        lambda: Reals(1, min_scale=math.nan),
        lambda: Bars(1, n_bars=2),
        lambda: Parts([]),
        lambda: Parts([Part("a", Reals(1)), Part("a", Reals(1))]),
        lambda: Part("a", Parts([Part("b", Reals(1))])),
        lambda: TaskSpec((1,), Reals(0)),  # type: ignore[arg-type]
        lambda: ConvCNP(TaskSpec((1,), Classes(2))),
        lambda: SPEC.target.quantile(torch.zeros(12), 1.0),  # type: ignore[attr-defined]
    ],
)
def test_senseless_targets_are_named(make: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()  # type: ignore[operator]
