"""The bound of neural processes: its transcription, its order, its gradients, and what it teaches."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from neural_process_cases import CLASSES, KINDS, MAKERS, REALS, Plain, ragged
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from metabox.episodes import Episodes, Examples
from metabox.learners.anp import ANP
from metabox.learners.neural_process import NP
from metabox.objectives import LatentLoss, QueryLoss, normal_kl
from metabox.targets import Classes, Reals, TaskSpec
from metabox.testing import build, make_episodes, outputs


def test_the_kl_divergence_is_that_of_torch() -> None:
    means, scales = torch.randn(2, 3, 8), 0.1 + torch.rand(2, 3, 8)
    wanted = kl_divergence(Normal(means[0], scales[0]), Normal(means[1], scales[1])).sum(-1)
    torch.testing.assert_close(normal_kl(means[0], scales[0], means[1], scales[1]), wanted)


@pytest.mark.parametrize("predict_support", [False, True])
@pytest.mark.parametrize("spec", KINDS, ids=str)
@pytest.mark.parametrize("name", ["NP", "ANP with self-attention"])
def test_the_bound_is_its_plain_transcription(name: str, spec: TaskSpec, predict_support: bool) -> None:
    """Equation 9 of Garnelo et al. 2018b, task by task, with the draws that the objective makes."""
    learner, likelihood, episodes = build(MAKERS[name], spec), spec.target, ragged(spec)
    objective = LatentLoss(learner, n_samples=2, predict_support=predict_support)
    torch.manual_seed(3)
    got = objective(episodes)
    torch.manual_seed(3)
    noise = torch.randn(3, 2, 128)
    for t in range(3):
        plain = Plain(learner, episodes, t)
        context, targets = plain.real(episodes.support, t), plain.real(episodes.query, t)
        prior, posterior = plain.posterior(context), plain.posterior(context + targets)
        targets = context + targets if predict_support else targets
        expected = torch.tensor(0.0)
        for s in range(2):
            z = posterior.mean + posterior.stddev * noise[t, s]
            for x, y in targets:
                expected = expected + likelihood.log_prob(plain.decode(x, z)[None, None], y[None, None])[0, 0] / 2
        kl = kl_divergence(posterior, prior).sum()
        torch.testing.assert_close(got["loss"][t], (kl - expected) / len(targets), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(got["kl"][t], kl / len(targets), rtol=1e-4, atol=1e-5)
        params = torch.stack([plain.decode(x, prior.mean) for x, _ in targets])[None]
        y = torch.stack([y for _, y in targets])[None]
        for score, value in likelihood.scores(params, y).items():
            torch.testing.assert_close(got[score][t], value.mean(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", [CLASSES, REALS], ids=str)
def test_the_weighted_bound_is_its_plain_transcription(spec: TaskSpec) -> None:
    """The loss of Nguyen & Grover's NP in training, over contexts and targets, task by task."""
    learner, likelihood, episodes = build(NP, spec), spec.target, ragged(spec)
    objective = LatentLoss(learner, n_samples=3, predict_support=True, weighted=True)
    torch.manual_seed(3)
    got = objective(episodes)["loss"]
    torch.manual_seed(3)
    noise = torch.randn(3, 3, 128)
    for t in range(3):
        plain = Plain(learner, episodes, t)
        context = plain.real(episodes.support, t)
        whole = context + plain.real(episodes.query, t)
        prior, posterior = plain.posterior(context), plain.posterior(whole)
        weights = []
        for s in range(3):
            z = posterior.mean + posterior.stddev * noise[t, s]
            fits = [likelihood.log_prob(plain.decode(x, z)[None, None], y[None, None])[0, 0] for x, y in whole]
            weights.append(sum(fits) + prior.log_prob(z).sum() - posterior.log_prob(z).sum())
        wanted = -(torch.stack(weights).logsumexp(0) - math.log(3)) / len(whole)
        torch.testing.assert_close(got[t], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", [CLASSES, REALS], ids=str)
def test_an_evaluation_scores_the_mixture_over_samples_of_z_by_log_mean_exp_if_told(spec: TaskSpec) -> None:
    learner, episodes = build(partial(NP, n_samples=50), spec), ragged(spec)
    objective = LatentLoss(learner, scored_by="samples")
    params, query = objective.predictions(episodes)
    got = objective.nll(episodes, params, query)
    for t in range(3):
        plain = Plain(learner, episodes, t)
        q, points = plain.posterior(plain.real(episodes.support, t)), plain.real(episodes.query, t)
        each = [
            torch.stack(
                [
                    spec.target.log_prob(plain.decode(x, q.mean + q.stddev * draw)[None, None], y[None, None])[0, 0]
                    for draw in learner.draws
                ]
            ).logsumexp(0)
            - math.log(50)
            for x, y in points
        ]
        torch.testing.assert_close(got[t], -torch.stack(each).mean(), rtol=1e-4, atol=1e-4)
    one = LatentLoss(learner).nll(episodes, params, query)
    assert torch.equal(one, spec.target.nll(params, query.y, query.mask))
    assert (one - got).abs().max() < 1e-5 if spec is CLASSES else (one - got).abs().max() > 1e-4


def test_the_bound_is_below_the_log_likelihood_that_many_samples_give() -> None:
    learner, likelihood, episodes = build(NP, REALS), REALS.target, make_episodes(REALS)
    with torch.no_grad():
        bound = -LatentLoss(learner, n_samples=500)(episodes)["loss"]
        phi = learner.adapt(episodes.support)
        z = phi["z_mean"][:, None] + phi["z_scale"][:, None] * torch.randn(3, 2000, 128)
        params = learner.decode(phi, episodes.query.x, z)
        y = episodes.query.y.repeat_interleave(2000, 0)
        together = likelihood.log_prob(params.flatten(0, 1), y).view(3, 2000, 4).sum(-1)
        exact = (together.logsumexp(1) - math.log(2000)) / 4
    assert (bound <= exact + 0.01).all()
    assert (bound >= exact - 2).all()  # and not because it is something else


@pytest.mark.parametrize("spec", [CLASSES, REALS], ids=str)
def test_without_queries_there_is_nothing_to_pay_and_nothing_to_learn(spec: TaskSpec) -> None:
    episodes = make_episodes(spec)
    nothing = replace(episodes, query=replace(episodes.query, mask=torch.zeros(3, 4, dtype=torch.bool)))
    got = LatentLoss(build(ANP, spec))(nothing)
    torch.testing.assert_close(got["loss"], torch.zeros(3), rtol=0, atol=1e-6)


def test_masked_classes_do_not_count_in_the_bound() -> None:
    learner = build(NP, replace(CLASSES, target=Classes(5)))
    few, episodes = build(NP, CLASSES), make_episodes(CLASSES)
    few.load_state_dict(learner.state_dict())
    mask = (torch.arange(5) < 3).expand(3, -1)
    torch.manual_seed(0)
    got = LatentLoss(learner)(replace(episodes, classes=mask))
    torch.manual_seed(0)
    torch.testing.assert_close(got, LatentLoss(few)(episodes), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("spec", [CLASSES, REALS], ids=str)
def test_with_the_bound_every_parameter_gets_a_gradient(name: str, spec: TaskSpec) -> None:
    learner = build(MAKERS[name], spec).train()
    result = LatentLoss(learner)(make_episodes(spec))
    result["loss"].sum().backward()
    assert not [n for n, p in learner.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-6]
    assert [n for n, value in result.items() if value.requires_grad] == ["loss"]


def test_the_bounds_predictions_are_those_of_the_learner_and_its_losses_float32() -> None:
    learner, episodes = build(ANP, REALS), make_episodes(REALS)
    objective = LatentLoss(learner)
    params, examples = objective.predictions(episodes)
    assert torch.equal(params, outputs(learner, episodes))
    assert examples is episodes.query
    with torch.autocast("cpu", torch.bfloat16):
        assert {value.dtype for value in objective(episodes).values()} == {torch.float32}


def test_the_bound_teaches_a_level_that_all_targets_of_a_task_share() -> None:
    """y = level + noise: with a support the predicted mean is near the level, and the scale near the noise."""
    spec = TaskSpec((1,), Reals(1))
    torch.manual_seed(0)
    learner = NP(spec, width=32, latent=8)
    objective = LatentLoss(learner)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)

    def episodes(n_tasks: int) -> tuple[Episodes, Tensor]:
        level = torch.randn(n_tasks, 1, 1)
        x, y = torch.randn(n_tasks, 20, 1), level + 0.2 * torch.randn(n_tasks, 20, 1)
        return Episodes(support=Examples(x=x[:, :10], y=y[:, :10]), query=Examples(x=x[:, 10:], y=y[:, 10:])), level

    for _ in range(400):
        optimizer.zero_grad()
        objective(episodes(32)[0])["loss"].mean().backward()
        optimizer.step()
    with torch.no_grad():
        test, level = episodes(200)
        mean, scale = objective.target.mean_and_scale(outputs(learner.eval(), test))  # type: ignore[attr-defined]
        assert float((mean - level).square().mean().sqrt()) < 0.2
        assert 0.15 < float(scale.mean()) < 0.35
        assert float(QueryLoss(learner)(test)["loss"].mean()) < 0.3
