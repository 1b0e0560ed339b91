"""VERSA: its equations one by one, and the integral that its samples stand for, by quadrature."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from learner_cases import CLASSES, DESCRIBED, embedding, ragged, real_examples
from torch import Tensor

from metabox.episodes import Episodes, Examples
from metabox.learners.versa import LARGEST, VERSA, VERSAConv, normal_quantiles
from metabox.targets import Classes, TaskSpec
from metabox.testing import build, make_episodes, outputs

KINDS = [CLASSES, DESCRIBED, TaskSpec((1, 16, 16), Classes(3))]


def plain_logits(learner: VERSA, episodes: Episodes, t: int, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance of each class's logit: weights from the class's mean feature, zeros where it has none."""
    features, seen = embedding(learner, episodes, t), real_examples(episodes.support, t)
    h, logits = features(x), []
    for c in range(learner.spec.target.size):
        mine = [features(x_i) for x_i, y in seen if y == c]
        pooled = sum(mine) / len(mine) if mine else torch.zeros_like(h)
        w, b = learner.mean(pooled).split([len(h), 1])
        var_w, var_b = (LARGEST * torch.tanh(learner.log_variance(pooled) / LARGEST)).exp().split([len(h), 1])
        logits.append((w @ h + b[0], var_w @ h**2 + var_b[0]))
    return logits


@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_versa_is_its_plain_transcription(spec: TaskSpec) -> None:
    learner, episodes = build(VERSA, spec), ragged(spec)
    got = outputs(learner, episodes)
    for t in range(3):
        for m, x in enumerate(episodes.query.x[t]):
            logits = plain_logits(learner, episodes, t, x)
            probabilities = []
            for draw in learner.draws:
                sample = torch.stack([mean + var.sqrt() * e for (mean, var), e in zip(logits, draw, strict=True)])
                probabilities.append(sample.exp() / sample.exp().sum())
            wanted = (sum(probabilities) / len(probabilities)).log()
            torch.testing.assert_close(got[t, m], wanted, rtol=1e-4, atol=1e-4)


def test_a_task_without_support_is_predicted_from_the_weights_of_a_zero_feature() -> None:
    learner, episodes = build(VERSA, CLASSES), ragged(CLASSES)
    mean, variance = learner.logits(learner.adapt(episodes.support), episodes.query.x)
    for m, x in enumerate(episodes.query.x[2]):
        for c, (wanted_mean, wanted_variance) in enumerate(plain_logits(learner, episodes, 2, x)):
            torch.testing.assert_close(mean[2, m, c], wanted_mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(variance[2, m, c], wanted_variance, rtol=1e-4, atol=1e-5)
    assert outputs(learner, episodes)[2].isfinite().all()


@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_without_variance_versa_is_a_linear_classifier(spec: TaskSpec) -> None:
    learner, episodes = build(VERSA, spec), make_episodes(spec)
    phi = learner.adapt(episodes.support, episodes.descriptor)
    phi["log_variance"] = torch.full_like(phi["log_variance"], -math.inf)
    h = learner.embed(episodes.query.x, phi)
    weights, bias = phi["mean"].split([h.shape[-1], 1], dim=-1)
    linear = h @ weights.transpose(1, 2) + bias.transpose(1, 2)
    torch.testing.assert_close(learner.predict(phi, episodes.query.x), linear.log_softmax(-1), rtol=1e-4, atol=1e-4)


def small_variances(learner: VERSA, spec: TaskSpec) -> tuple[dict[str, Tensor], Tensor]:
    """phi with logits whose standard deviations are around 1, and queries."""
    episodes = make_episodes(spec)
    phi = learner.adapt(episodes.support)
    mean, variance = learner.logits(phi, episodes.query.x)
    phi["mean"] = phi["mean"] / mean.std()
    phi["log_variance"] = phi["log_variance"] - variance.mean().log()
    return phi, episodes.query.x


def quadrature(mean: np.ndarray, variance: np.ndarray, points: int = 24) -> np.ndarray:
    """E[softmax(z)], z ~ N(mean, diag(variance)), by a grid of Gauss-Hermite nodes over all classes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    weights = weights / weights.sum()
    total = np.zeros_like(mean)
    for place in itertools.product(range(points), repeat=len(mean)):
        z = mean + np.sqrt(variance) * nodes[list(place)]
        p = np.exp(z - z.max())
        total += weights[list(place)].prod() * p / p.sum()
    return total


def test_many_samples_come_to_the_integral_of_the_softmax() -> None:
    learner = build(partial(VERSA, n_samples=20000), CLASSES)
    phi, x = small_variances(learner, CLASSES)
    got = learner.predict(phi, x).exp()
    mean, variance = (part.detach().double().numpy() for part in learner.logits(phi, x))
    for t, m in ((0, 0), (1, 2), (2, 3)):
        wanted = quadrature(mean[t, m], variance[t, m])
        np.testing.assert_allclose(got[t, m].detach().numpy(), wanted, atol=5e-3)
        at_mean = np.exp(mean[t, m]) / np.exp(mean[t, m]).sum()
        assert np.abs(wanted - at_mean).max() > 0.02  # the uncertainty makes a difference


def test_two_classes_come_to_the_logistic_normal_integral() -> None:
    spec = TaskSpec((4,), Classes(2))
    learner = build(partial(VERSA, n_samples=20000), spec)
    phi, x = small_variances(learner, spec)
    got = learner.predict(phi, x).exp()[..., 0]
    mean, variance = (part.detach().double().numpy() for part in learner.logits(phi, x))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    gap = (mean[..., 0] - mean[..., 1])[..., None] + np.sqrt(variance.sum(-1))[..., None] * nodes
    wanted = (1 / (1 + np.exp(-gap))) @ (weights / weights.sum())
    np.testing.assert_allclose(got.detach().numpy(), wanted, atol=5e-3)


def test_training_takes_the_mean_probability_of_fresh_draws_of_every_logit() -> None:
    learner, episodes = build(VERSA, CLASSES).train(), make_episodes(CLASSES)
    phi = learner.adapt(episodes.support)
    mean, variance = learner.logits(phi, episodes.query.x)
    torch.manual_seed(3)
    got = learner.predict(phi, episodes.query.x)
    torch.manual_seed(3)
    draws = torch.randn(3, 10, 4, 3)
    wanted = sum((mean + variance.sqrt() * draws[:, s]).softmax(-1) for s in range(10)) / 10
    torch.testing.assert_close(got.exp(), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(learner.predict(phi, episodes.query.x), got)


def test_the_fixed_draws_are_the_same_quantiles_for_every_class() -> None:
    draws = normal_quantiles(10, 5)
    assert torch.equal(draws.sort(dim=0).values, draws.sort(dim=0).values[:, :1].expand(-1, 5))
    torch.testing.assert_close(draws.mean(0), torch.zeros(5), rtol=0, atol=1e-6)
    torch.testing.assert_close(draws.var(0, correction=0), torch.ones(5))
    assert len({tuple(column.tolist()) for column in draws.T}) == 5
    assert torch.equal(normal_quantiles(10, 20)[:, :5], draws)
    assert torch.equal(normal_quantiles(1, 3), torch.zeros(1, 3))


def test_renaming_classes_renames_predictions_but_for_the_order_of_the_draws() -> None:
    learner = build(partial(VERSA, n_samples=20000), CLASSES)
    phi, x = small_variances(learner, CLASSES)
    new_name = torch.tensor([2, 0, 1])
    renamed = phi | {name: torch.empty_like(phi[name]) for name in ("mean", "log_variance")}
    for name in ("mean", "log_variance"):
        renamed[name][:, new_name] = phi[name]
    there = learner.predict(renamed, x)[..., new_name].exp()
    torch.testing.assert_close(there, learner.predict(phi, x).exp(), rtol=0, atol=1e-2)


def test_the_weights_of_few_classes_serve_more() -> None:
    wide = replace(CLASSES, target=Classes(20))
    few, many = build(VERSA, CLASSES), VERSA(wide).eval()
    many.load_state_dict(few.state_dict())
    episodes = make_episodes(CLASSES)
    three = replace(episodes, classes=(torch.arange(20) < 3).expand(3, -1))
    torch.testing.assert_close(outputs(many, three)[..., :3], outputs(few, episodes), rtol=1e-4, atol=1e-4)


def test_no_support_makes_a_variance_that_is_not_finite() -> None:
    learner, episodes = build(VERSA, CLASSES), make_episodes(CLASSES)
    far = Examples(x=episodes.support.x * 1e4, y=episodes.support.y)
    assert learner.adapt(far)["log_variance"].abs().max() <= LARGEST
    assert outputs(learner, episodes, far).isfinite().all()


# ------------------------------------------------------------------ the network of the authors' code


def plain_features(network: VERSAConv, x: Tensor) -> Tensor:
    """`conv2d_pool_block` for the images of one task together, [N, ...]: batch statistics, a shift and no factor."""
    h = x.float() / 255
    for convolution, norm in zip(network.convolutions, network.norms, strict=True):
        h = convolution(h)
        mean, variance = h.mean((0, 2, 3)), h.var((0, 2, 3), correction=0)
        h = (h - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None] + norm.norm.bias[:, None, None]
        h = torch.relu(h)
        if network.ceil and h.shape[-1] % 2:  # "same": an odd row is pooled alone
            h = torch.nn.functional.pad(h, (0, 1, 0, 1), value=-math.inf)
        h = torch.nn.functional.max_pool2d(h, 2)
    return h.flatten(1)


@pytest.mark.parametrize("pooling", ["same", "valid"])
def test_support_and_queries_of_a_task_are_each_normalised_together_as_in_the_authors_code(pooling: str) -> None:
    spec = TaskSpec((1, 11, 11), Classes(3))
    make = partial(VERSAConv, blocks=2, width=4, pooling=pooling, norm="transductive", drop_rate=0.0)
    learner, episodes = build(partial(VERSA, backbone=make), spec), make_episodes(spec)
    network = learner.embed.backbone
    for norm in network.norms:
        assert not norm.norm.weight.requires_grad
        norm.norm.weight.data.fill_(1)  # as it is unless a test changes it
    for training in (False, True):
        network.train(training)
        for part in (episodes.support, episodes.query):
            here = network.adapt(part.x, part.mask)[0] if part is episodes.support else network(part.x)
            wanted = torch.stack([plain_features(network, x) for x in part.x])
            torch.testing.assert_close(here, wanted, rtol=1e-3, atol=1e-4)


def test_the_networks_have_the_256_features_of_the_authors_code() -> None:
    assert VERSAConv((1, 28, 28)).out_features == 256
    assert VERSAConv((3, 84, 84), blocks=5, pooling="valid").out_features == 256
    with pytest.raises(ValueError, match="expected images of at least 32x32 for 5 valid poolings"):
        VERSAConv((3, 28, 28), blocks=5, pooling="valid")


def test_a_share_of_the_features_is_dropped_in_training_and_none_in_evaluation() -> None:
    network, x = VERSAConv((1, 28, 28), blocks=1, drop_rate=0.5), torch.randint(256, (64, 1, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        network.norms[0].norm.bias.fill_(10)  # every number is positive before dropout
        zeros = [(network.train(training)(x) == 0).float().mean() for training in (True, False)]
    assert abs(zeros[0] - 0.5**4) < 0.01  # a pooled number is zero if all four are
    assert zeros[1] == 0
