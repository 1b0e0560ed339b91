"""MetaNet against Algorithm 1 of its paper, step by step: one example at a time, gradients by autograd."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from learner_cases import CLASSES, DESCRIBED, embedding, in_double, ragged, real_examples
from torch import Tensor

from metabox.episodes import Episodes, Examples
from metabox.learners.metanet import MetaNet, preprocess
from metabox.targets import TaskSpec
from metabox.testing import SPECS, build, make_episodes, outputs


def two_numbers(g: float, p: float = 7.0) -> list[float]:
    """Andrychowicz et al. 2016, appendix A."""
    if abs(g) >= math.exp(-p):
        return [math.log(abs(g)) / p, math.copysign(1.0, g)]
    return [-1.0, math.exp(p) * g]


def plain_preprocess(gradient: Tensor) -> Tensor:
    """A gradient `[...]` to one row of two numbers for each coordinate."""
    return torch.tensor([two_numbers(g) for g in gradient.flatten().tolist()], dtype=gradient.dtype)


def cut(examples: list, parts: int) -> list[list]:
    """As many equal parts as there are, some of them empty where there are too few examples."""
    n = len(examples)
    return [[e for i, e in enumerate(examples) if i * parts // n == k] for k in range(parts)] if n else []


def plain_metanet(learner: MetaNet, episodes: Episodes, t: int, x: Tensor) -> Tensor:
    """Logits of one query. Line numbers are those of Algorithm 1."""
    features = embedding(learner, episodes, t)
    support = [(learner.reduce(features(x_i)), y_i) for x_i, y_i in real_examples(episodes.support, t)]
    q, w1, w2, v = learner.u.weight, learner.b1.weight, learner.b2.weight, learner.readout

    # 1 to 5: gradients of the embedding loss
    gradients = []
    for part in cut(support, learner.parts):
        if part:
            losses = [F.cross_entropy(v @ torch.relu(q @ h.detach()), y) for h, y in part]
            gradients.append(torch.autograd.grad(sum(losses) / len(losses), q)[0])
    # 6: Q* = d(G, gradients), by torch's own LSTM, each coordinate a sequence
    q_fast = torch.zeros_like(q)
    if gradients:
        lstm = torch.nn.LSTM(2, learner.d.hidden_size).to(q.dtype)
        own = {f"{name}_l0": value for name, value in learner.d.named_parameters()}
        sequence = torch.stack([plain_preprocess(g) for g in gradients])
        _, (last, _) = torch.func.functional_call(lstm, own, sequence)
        q_fast = learner.d_out(last[0]).view_as(q)
    # 7 to 14: the memory and its keys
    memory, keys = [], []
    for h, y in support:
        loss = F.cross_entropy(w2 @ torch.relu(w1 @ h.detach()), y)
        grads = torch.autograd.grad(loss, [w1, w2])
        memory.append([learner.m(plain_preprocess(g)).view_as(g) for g in grads])
        keys.append(q @ h + q_fast @ h)
    # 17 to 20: read the memory, and answer with both kinds of weights
    h = learner.reduce(features(x))
    r = q @ h + q_fast @ h
    w1_fast, w2_fast = torch.zeros_like(w1), torch.zeros_like(w2)
    if memory:
        a = torch.stack([F.cosine_similarity(r, key, dim=0) for key in keys]).softmax(0)
        w1_fast, w2_fast = (sum(a_i * w[k] for a_i, w in zip(a, memory, strict=True)) for k in (0, 1))
    hidden = torch.relu(w1 @ h) + torch.relu(w1_fast @ h)
    return w2 @ hidden + w2_fast @ hidden


@pytest.mark.parametrize("spec", [CLASSES, DESCRIBED], ids=str)
@pytest.mark.parametrize("parts", [5, 2])
def test_it_is_algorithm_1_and_so_is_its_outer_gradient(spec: TaskSpec, parts: int) -> None:
    """The supports have 6, 4 and 0 examples, so that parts hold several, one and none."""
    learner = build(lambda *a: MetaNet(*a, width=6, parts=parts), spec).double()
    episodes = in_double(ragged(spec))
    got = outputs(learner, episodes)
    wanted = torch.stack(
        [torch.stack([plain_metanet(learner, episodes, t, x) for x in episodes.query.x[t]]) for t in range(3)]
    )
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    direction, weights = torch.randn_like(got), list(learner.parameters())
    for a, b in zip(*(torch.autograd.grad(y, weights, direction) for y in (got, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_preprocessing_has_one_rule_for_large_gradients_and_one_for_small() -> None:
    g = torch.tensor([-20.0, -1.0, -1e-2, -1e-3, -1e-4, 0.0, 1e-7, 1e-3, 0.5, 3.0])
    torch.testing.assert_close(preprocess(g), plain_preprocess(g))


def test_an_empty_support_leaves_the_slow_weights_alone() -> None:
    learner, episodes = build(MetaNet, CLASSES), make_episodes(CLASSES, n_support=0)
    h = learner.reduce(learner.embed.backbone(episodes.query.x))
    torch.testing.assert_close(outputs(learner, episodes), learner.b2(torch.relu(learner.b1(h))))


@pytest.mark.parametrize("kind", ["classes of vectors", "classes of images"])
def test_gradients_are_there_where_torch_keeps_none(kind: str) -> None:
    learner, episodes = build(MetaNet, SPECS[kind]), make_episodes(SPECS[kind])
    wanted = outputs(learner, episodes).detach()
    with torch.inference_mode():
        torch.testing.assert_close(outputs(learner, episodes), wanted)


def test_the_labels_reach_the_predictions() -> None:
    learner, episodes = build(MetaNet, CLASSES), make_episodes(CLASSES)
    s = episodes.support
    others = Examples(x=s.x, y=(s.y + 1) % 3)
    assert (outputs(learner, episodes, others) - outputs(learner, episodes)).abs().max() > 1e-3


def test_it_works_in_double_precision() -> None:
    learner, episodes = build(MetaNet, CLASSES).double(), in_double(make_episodes(CLASSES, n_support=0))
    assert outputs(learner, episodes).dtype == torch.double
