"""Losses of a target's own: densities that integrate to 1, published losses, and scores that belong to each."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import metabox
from metabox import Binary, Classes, Direction, Huber, Laplace, Parts, Quantiles, Reals
from metabox.learners import CNP, HardSharing
from metabox.objectives import QueryLoss
from metabox.targets import Part, Target, TaskSpec
from metabox.targets.vector import RealVector
from metabox.tasks import Sinusoids
from metabox.testing import CHECKS, SPECS
from metabox.testing.cases import make_episodes

LINE = torch.linspace(-150, 150, 1_500_001, dtype=torch.float64)
FIXED = [Laplace(), Huber(), Huber(1, 0.3), Quantiles(), Quantiles(1, (0.9,)), Reals(1, noise=1)]


@pytest.mark.parametrize("target", FIXED, ids=str)
def test_a_density_at_scale_one_integrates_to_one_with_its_moments_and_quantiles(target: RealVector) -> None:
    params = torch.full((1, 1, 1), 0.7)
    p = target.log_prob(params.expand(1, len(LINE), 1), LINE[None, :, None]).exp()[0].double()
    step = float(LINE[1] - LINE[0])
    assert float(p.sum() * step) == pytest.approx(1, abs=1e-4)
    mean = float((p * LINE).sum() * step)
    assert float(target.mean(params)) == pytest.approx(mean, abs=1e-3)
    assert float(target.std(params)) == pytest.approx(float((p * (LINE - mean).square()).sum() * step) ** 0.5, abs=2e-3)
    below = p.cumsum(0) * step
    for q in (0.03, 0.2, 0.5, 0.9, 0.99):
        assert float(target.quantile(params, q)) == pytest.approx(float(LINE[below >= q][0]), abs=2e-3)


@pytest.mark.parametrize("target", FIXED, ids=str)
def test_in_units_the_density_has_the_jacobian_and_the_loss_has_not(target: RealVector) -> None:
    params, y = torch.randn(2, 3, 1), torch.randn(2, 3, 1)
    other, there = target.in_units(params, torch.tensor([50.0]), torch.tensor([8.0])), 50 + 8 * y
    torch.testing.assert_close(target.log_prob(other, there), target.log_prob(params, y) - math.log(8))
    torch.testing.assert_close(target.loss(other, there), target.loss(params, y), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(target.quantile(other, 0.3), 50 + 8 * target.quantile(params, 0.3))
    torch.testing.assert_close(target.std(other), 8 * target.std(params))
    same = target.mixture(other[:, None].expand(-1, 3, -1, -1))
    torch.testing.assert_close(target.mean(same), target.mean(other))


@pytest.mark.parametrize("size", [2, 3])
def test_the_density_of_directions_integrates_to_one_over_the_sphere(size: int) -> None:
    target, n = Direction(size), 200
    around = torch.linspace(0, 2 * math.pi, 4 * n + 1)[:-1]
    if size == 2:
        points, area = torch.stack([around.cos(), around.sin()], -1), torch.full([len(around)], math.pi / 2 / n)
    else:  # equal areas: the height is uniform
        height = (torch.arange(n) + 0.5) / n * 2 - 1
        h, a = torch.meshgrid(height, around, indexing="ij")
        flat = (1 - h.square()).sqrt()
        points = torch.stack([flat * a.cos(), flat * a.sin(), h], -1).view(-1, 3)
        area = torch.full([len(points)], 4 * math.pi / len(points))
    params = torch.randn(1, 1, size).expand(1, len(points), -1)
    assert float((target.log_prob(params, points[None]).exp()[0] * area).sum()) == pytest.approx(1, abs=1e-4)


def test_losses_are_those_of_torch() -> None:
    f, y = torch.randn(2, 5, 3), 2 * torch.randn(2, 5, 3)
    wanted: dict[Target, torch.Tensor] = {
        Laplace(3): F.l1_loss(f, y, reduction="none"),
        Huber(3, 0.7): F.huber_loss(f, y, reduction="none", delta=0.7),
        Quantiles(3): 0.5 * (f - y).abs(),
        Reals(3, noise=1): 0.5 * F.mse_loss(f, y, reduction="none"),
    }
    for target, each in wanted.items():
        torch.testing.assert_close(target.loss(f, y), each.sum(-1))
    torch.testing.assert_close(Direction(3).loss(f, 7 * y), 1 - F.cosine_similarity(f, y, dim=-1))


def test_focal_and_class_weights_change_the_loss_and_not_the_likelihood() -> None:
    logits, y = torch.randn(2, 7, 3), torch.randint(3, (2, 7))
    plain, weighted, focal = Classes(3), Classes(3, weights=(1, 2, 0.5)), Classes(3, focal=2)
    cross = F.cross_entropy(logits.flatten(0, 1), y.flatten(), torch.tensor([1, 2, 0.5]), reduction="none")
    torch.testing.assert_close(weighted.loss(logits, y).flatten(), cross)
    p = logits.softmax(-1).gather(-1, y[..., None])[..., 0]
    torch.testing.assert_close(focal.loss(logits, y), -(1 - p).square() * p.log())
    for target in (weighted, focal):
        assert torch.equal(target.log_prob(logits, y), plain.log_prob(logits, y))
    labels = (torch.randn(2, 7, 3) > 0).float()
    torchs = F.binary_cross_entropy_with_logits(logits, labels, reduction="none", pos_weight=torch.tensor(3.0))
    torch.testing.assert_close(Binary(3, positive=3).loss(logits, labels), torchs.sum(-1))
    right = torch.where(labels > 0.5, logits, -logits).sigmoid()
    torch.testing.assert_close(Binary(3, focal=2).loss(logits, labels), (-(1 - right).square() * right.log()).sum(-1))


@pytest.mark.parametrize("focal", [0.5, 2.0])
def test_a_certain_prediction_has_a_finite_gradient_of_the_focal_loss(focal: float) -> None:
    logits = torch.tensor([[[60.0, 0.0]]], requires_grad=True)
    Classes(2, focal).loss(logits, torch.zeros(1, 1, dtype=torch.int64)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_several_quantiles_are_read_in_ascending_order_and_have_no_density() -> None:
    target = Quantiles(2, (0.1, 0.5, 0.9))
    params, y = torch.tensor([[[3.0, 1.0, 2.0, 0.0, 0.0, 0.0]]]), torch.tensor([[[2.5, 1.0]]])
    assert target.at_levels(params)[0, 0].tolist() == [[1, 2, 3], [0, 0, 0]]
    scores = target.scores(params, y)
    assert float(scores["coverage"]) == 0.5
    # (.1 * 1.5 + .5 * .5 + .1 * .5) / 3 and (.1 + .5 + .9) / 3
    assert float(target.loss(params, y)) == pytest.approx(0.45 / 3 + 0.5)
    assert float(target.quantile(params, 0.3)[0, 0, 0]) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="expected one level for a density"):
        target.log_prob(params, y)
    with pytest.raises(ValueError, match="expected a target with a likelihood"):
        HardSharing(replace(SPECS["named tasks"], target=target), code="both")


TASKS = Sinusoids(n_support=5, n_query=5)
OUTER = metabox.OuterLoop(steps=2, n_tasks=4, validate_every=1, n_validation=2, precision="32")


def test_a_run_with_several_quantiles_has_a_loss_and_a_coverage_and_no_nll(tmp_path: Path) -> None:
    levels = Quantiles(1, (0.1, 0.9))
    learner = metabox.run(TASKS, CNP, OUTER, target=levels, out=tmp_path)
    scores = metabox.evaluate(learner, TASKS, n_tasks=4)
    assert scores.per_task.keys() == {"loss", "pinball", "coverage"}
    assert scores.n_tasks == 4


@pytest.mark.parametrize("target", [Laplace(1), Huber(1), Quantiles(1, (0.1, 0.5)), Direction(2)], ids=str)
@pytest.mark.parametrize("check", sorted(set(CHECKS) - {"check_bf16_stays_close_to_float32"}))
def test_learners_take_the_new_kinds(check: str, target: Target) -> None:
    if "learns" in check or ("density" in check and not target.has_density):
        pytest.skip("slow, or about a density")
    CHECKS[check](CNP, TaskSpec((2,), target))


def test_each_part_has_a_loss_of_its_own() -> None:
    parts = (
        Part("depth", Laplace(1), (2, 2)),
        Part("normal", Direction(3), (2, 2)),
        Part("age", Huber(1)),
        Part("kind", Classes(3, focal=2)),
    )
    target = Parts(parts)
    params, y = torch.randn(1, 2, target.n_params), torch.randn(1, 2, target.size)
    y[..., -1] = 1.0
    y[0, 0, 4 + 8] = math.nan  # the third number of the first pixel's normal
    losses = target.losses(params, y, torch.ones(1, 2, dtype=torch.bool))[1]
    p, q = params[0], y[0]
    normals, truth = p[:, 4:16].view(2, 3, 4), q[:, 4:16].view(2, 3, 4)
    each = 1 - F.cosine_similarity(normals, truth, dim=1)  # [2, pixels]
    torch.testing.assert_close(losses["normal"][0], (each[0, 1:].mean() + each[1].mean()) / 2)
    torch.testing.assert_close(losses["depth"][0], (p[:, :4] - q[:, :4]).abs().mean())
    torch.testing.assert_close(losses["age"][0], Huber(1).loss(p[None, :, 16:17], q[None, :, 16:17]).mean())
    scores = target.scores(params, y)
    assert scores.keys() == {"absolute_error_depth", "angle_normal", "absolute_error_age", "accuracy_kind"}
    mixed = target.mixture(params[:, None].expand(-1, 3, -1, -1))
    torch.testing.assert_close(target.losses(mixed, y, torch.ones(1, 2, dtype=torch.bool))[1], losses)


def test_rankings_of_binary_labels_are_scored_over_all_tasks_and_missing_labels_are_left_out() -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    from metabox.ranking import ranking_scores

    target = Parts([Part("tags", Binary(2)), Part("age", Reals(1))])
    params, y = torch.randn(3, 20, target.n_params), torch.randn(3, 20, 3)
    y[..., :2] = (y[..., :2] > 0).float()
    y[1, :, 0] = math.nan
    mask = torch.ones(3, 20, dtype=torch.bool)
    mask[2, 5:] = False
    got = ranking_scores([target.ranked(params[i : i + 1], y[i : i + 1], mask[i : i + 1]) for i in range(3)])
    there = [mask & ~y[..., k].isnan() for k in (0, 1)]
    for name, function in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
        wanted = sum(function(y[there[k]][:, k], params[there[k]][:, k]) for k in (0, 1)) / 2
        assert got.pop(f"{name}_tags") == pytest.approx(wanted, abs=1e-5)
    assert got == {}


def test_the_log_term_of_uncertainty_is_that_of_each_density() -> None:
    from metabox.multitask import Uncertainty

    weighting = Uncertainty(3)
    parts = [Part("l1", Laplace(1)), Part("squares", Reals(1, noise=1)), Part("kind", Classes(2))]
    weighting.fit(TaskSpec((2,), Parts(parts)))
    with torch.no_grad():
        weighting.log_variance.copy_(torch.tensor([0.3, 0.5, -0.2]))
    got = weighting.total(torch.tensor([2.0, 3.0, 0.5]), torch.ones(3))
    wanted = 2 * math.exp(-0.3) + 0.3 + 3 * math.exp(-0.5) + 0.25 + 0.5 * math.exp(0.2) - 0.1
    assert float(got.detach()) == pytest.approx(wanted, rel=1e-5)


def test_training_minimises_the_loss_and_an_evaluation_reports_the_likelihood() -> None:
    spec = replace(SPECS["classes of vectors"], target=Classes(SPECS["classes of vectors"].target.size, focal=5))
    learner = CNP(spec)
    episodes = make_episodes(spec)
    objective = QueryLoss(learner)
    params, query = objective.predictions(episodes)
    assert bool((objective.losses(params, query, episodes)[0] < objective.nll(episodes, params, query)).all())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Quantiles(1, ()),
        lambda: Quantiles(1, (0.5, 0.5)),
        lambda: Quantiles(1, (0.0,)),
        lambda: Huber(1, delta=0.0),
        lambda: Direction(1),
        lambda: Classes(3, weights=(1.0, 2.0)),
        lambda: Classes(3, focal=-1.0),
    ],
)
def test_senseless_losses_are_named(make: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()  # type: ignore[operator]
