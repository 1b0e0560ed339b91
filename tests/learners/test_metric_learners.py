"""Prototypical, matching and relation networks: the papers' equations one by one, and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from learner_cases import CLASSES, DESCRIBED, ragged, real_examples
from torch import Tensor, nn

from metabox.episodes import Episodes, Examples
from metabox.learners.base import Learner
from metabox.learners.matching import FullContextMatchingNet, MatchingNet
from metabox.learners.prototypical import ProtoNet
from metabox.learners.relation import RelationConv, RelationNet
from metabox.nn.backbones import Conv4, Flatten
from metabox.nn.metric import cosines, squared_distances
from metabox.targets import Classes, TaskSpec
from metabox.testing import build, make_episodes, outputs

IMAGES = TaskSpec((1, 28, 28), Classes(3))
RAW = TaskSpec((4,), Classes(3))


def gated(learner: Learner, episodes: Episodes, t: int) -> Callable[[Tensor], Tensor]:
    """What a learner's first layer makes of one input of task t: its features, gated by the descriptor."""
    if episodes.descriptor is None:
        return learner.embed.backbone
    scale = 1 + learner.embed.condition.scale(episodes.descriptor[t])
    return lambda x: scale * learner.embed.backbone(x)


def by_class(learner: Learner, episodes: Episodes, t: int) -> list[list[Tensor]]:
    features, seen = gated(learner, episodes, t), real_examples(episodes.support, t)
    return [[features(x) for x, y in seen if y == c] for c in range(learner.spec.target.size)]


# ------------------------------------------------------------------ the oracles


def plain_protonet(learner: ProtoNet, episodes: Episodes, t: int, x: Tensor) -> Tensor:
    """Snell et al. 2017, equations 1 and 2."""
    query = gated(learner, episodes, t)(x)
    distances: list[Tensor | None] = []
    for mine in by_class(learner, episodes, t):
        prototype = sum(mine) / len(mine) if mine else None
        if prototype is None:
            distances.append(None)
        elif learner.distance == "euclidean":
            distances.append(((query - prototype) ** 2).sum())
        else:
            distances.append(1 - query @ prototype / (query.norm() * prototype.norm()))
    farthest = max((d for d in distances if d is not None), default=torch.tensor(0.0))
    return torch.stack([-(farthest if d is None else d) for d in distances])


def attend(learner: MatchingNet, query: Tensor, keys: list[Tensor], labels: list[int]) -> Tensor:
    """Vinyals et al. 2016, equation 1, to logits that are relative to a cosine of 1."""
    s = learner.sharpness or float(learner.log_sharpness.detach().exp())
    mass = []
    for c in range(learner.spec.target.size):
        mine = [k for k, label in zip(keys, labels, strict=True) if label == c]
        terms = [torch.exp(s * (F.cosine_similarity(query, k, dim=0) - 1)) for k in mine]
        mass.append(sum(terms) if terms else torch.tensor(math.exp(-2 * s)))
    return torch.stack(mass).log()


def plain_matching(learner: MatchingNet, episodes: Episodes, t: int, x: Tensor) -> Tensor:
    features, seen = gated(learner, episodes, t), real_examples(episodes.support, t)
    return attend(learner, features(x), [features(x_i) for x_i, _ in seen], [int(y) for _, y in seen])


def plain_context(learner: FullContextMatchingNet, support: Tensor) -> Tensor:
    """Section A.2 by torch's own bidirectional LSTM: support `[N, D]` in, `[N, D]` out."""
    width = support.shape[1]
    both = nn.LSTM(width, width, bidirectional=True)
    names = [name for name, _ in learner.forwards.named_parameters()]
    both.load_state_dict(
        {name: learner.forwards.state_dict()[name] for name in names}
        | {f"{name}_reverse": learner.backwards.state_dict()[name] for name in names}
    )
    forwards, backwards = both(support)[0].split(width, dim=-1)
    return support + forwards + backwards


def plain_att_lstm(learner: FullContextMatchingNet, query: Tensor, g: Tensor) -> Tensor:
    """Equations 3 to 6 in NumPy, with [h, r] for the hidden state of the LSTM as they are written."""

    def sigmoid(v: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-v))

    cell = {name: value.detach().double().numpy() for name, value in learner.cell.named_parameters()}
    width = len(query)
    of_input = cell["weight_ih"][:, :width]
    of_hidden = np.concatenate([cell["weight_hh"], cell["weight_ih"][:, width:]], axis=1)
    f, g = query.detach().double().numpy(), g.detach().double().numpy()
    h, c = np.zeros(width), np.zeros(width)
    for _ in range(learner.n_steps):
        r = np.zeros(width)
        if len(g):
            a = np.exp(g @ h - (g @ h).max())
            a = a / a.sum()  # equation 6
            r = a @ g  # equation 5
        gates = of_input @ f + of_hidden @ np.concatenate([h, r]) + cell["bias_ih"] + cell["bias_hh"]
        i, forget, new, out = np.split(gates, 4)
        c = sigmoid(forget) * c + sigmoid(i) * np.tanh(new)
        h = sigmoid(out) * np.tanh(c) + f  # equations 3 and 4
    return torch.from_numpy(h).float()


def plain_full_context(learner: FullContextMatchingNet, episodes: Episodes, t: int, x: Tensor) -> Tensor:
    features, seen = gated(learner, episodes, t), real_examples(episodes.support, t)
    query = features(x)
    g = torch.stack([features(x_i) for x_i, _ in seen]) if seen else query.new_zeros(0, len(query))
    g = plain_context(learner, g) if seen else g
    return attend(learner, plain_att_lstm(learner, query, g), list(g), [int(y) for _, y in seen])


def plain_relation(learner: RelationNet, episodes: Episodes, t: int, x: Tensor) -> Tensor:
    """Sung et al. 2018, equation 1, before the sigmoid: the module over two maps beside each other in depth."""
    query = gated(learner, episodes, t)(x)
    scores = []
    for mine in by_class(learner, episodes, t):
        total = sum(mine, torch.zeros_like(query))
        module = learner.relation
        if learner.embed.backbone.map_shape:
            shape = learner.embed.backbone.map_shape
            pair = torch.cat([total.view(shape), query.view(shape)])[None]
            (norm1, norm2), (pool1, pool2) = (norm.norm for norm in module.norms), module.pools
            _, linear1, _, linear2 = module.score
            maps = pool1(torch.relu(norm1(module.convolution(pair))))
            maps = pool2(torch.relu(norm2(module.second(maps))))
            scores.append(linear2(torch.relu(linear1(maps.flatten())))[0])
        else:
            scores.append(nn.Sequential(*module)(torch.cat([total, query]))[0])
    return torch.stack(scores)


PLAIN = {
    "ProtoNet": (ProtoNet, plain_protonet),
    "ProtoNet, cosine": (partial(ProtoNet, distance="cosine"), plain_protonet),
    "MatchingNet": (MatchingNet, plain_matching),
    "MatchingNet, sharpness 1": (partial(MatchingNet, sharpness=1.0), plain_matching),
    "FullContextMatchingNet": (FullContextMatchingNet, plain_full_context),
    "FullContextMatchingNet, two steps": (partial(FullContextMatchingNet, n_steps=2), plain_full_context),
    "RelationNet": (RelationNet, plain_relation),
    "RelationNet, Conv4": (partial(RelationNet, backbone=partial(Conv4, downsample="stride")), plain_relation),
}


@pytest.mark.parametrize("spec", [CLASSES, DESCRIBED, IMAGES], ids=str)
@pytest.mark.parametrize("name", PLAIN)
def test_a_learner_is_its_plain_transcription(name: str, spec: TaskSpec) -> None:
    make, plain = PLAIN[name]
    if "Conv4" in name and spec is not IMAGES:
        return
    learner, episodes = build(make, spec), ragged(spec)
    got = outputs(learner, episodes)
    for t in range(3):
        wanted = torch.stack([plain(learner, episodes, t, x) for x in episodes.query.x[t]])
        torch.testing.assert_close(got[t], wanted, rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------- closed forms


def raw_task() -> Episodes:
    """Vectors that a backbone leaves alone (`Flatten`): class 0 twice, class 1 once, class 2 never."""
    x = torch.tensor([[[1.0, 0, 0, 0], [0, 2.0, 0, 0], [1.0, 2.0, 0, 0]]])
    query = torch.tensor([[[1.0, 0, 0, 0], [2.0, 4.0, 0, 0]]])
    return Episodes(
        support=Examples(x=x, y=torch.tensor([[0, 1, 0]])), query=Examples(x=query, y=torch.tensor([[0, 1]]))
    )


@pytest.mark.parametrize("spec", [CLASSES, IMAGES], ids=str)
def test_a_prototypical_network_is_the_linear_classifier_of_equation_8(spec: TaskSpec) -> None:
    learner, episodes = build(ProtoNet, spec), make_episodes(spec)
    features = learner.embed.backbone(episodes.query.x)
    c = learner.adapt(episodes.support)["prototypes"]
    linear = features @ (2 * c).transpose(1, 2) - c.square().sum(-1)[:, None]
    torch.testing.assert_close(outputs(learner, episodes).softmax(-1), linear.softmax(-1), rtol=1e-4, atol=1e-5)


def test_prototypes_are_class_means_and_distances_are_squared() -> None:
    learner = ProtoNet(RAW, backbone=Flatten).eval()
    phi = learner.adapt(raw_task().support)
    assert torch.equal(phi["prototypes"][0], torch.tensor([[1.0, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0]]))
    assert torch.equal(phi["counts"], torch.tensor([[2.0, 1, 0]]))
    # The class without support is as far away as the farthest of the others.
    assert torch.equal(outputs(learner, raw_task()), -torch.tensor([[[1.0, 5, 5], [10, 8, 10]]]))


def test_attention_of_matching_networks_is_the_softmax_of_cosines_and_adds_up_within_a_class() -> None:
    learner = MatchingNet(RAW, backbone=Flatten, sharpness=1.0).eval()
    near, far = 1 / math.sqrt(5), 2 / math.sqrt(5)
    mass = torch.tensor(
        [
            [math.exp(1) + math.exp(near), math.exp(0), math.exp(-1)],
            [math.exp(near) + math.exp(1), math.exp(far), math.exp(-1)],
        ]
    )
    wanted = (mass / mass.sum(-1, keepdim=True))[None]
    torch.testing.assert_close(outputs(learner, raw_task()).softmax(-1), wanted)


@pytest.mark.parametrize("n_way", [2, 5])
def test_the_papers_sharpness_bounds_the_probability_of_a_perfect_match(n_way: int) -> None:
    """What the docstring of `MatchingNet` says of the factor 1, with all other classes in the opposite direction."""
    spec = TaskSpec((2,), Classes(n_way))
    x = torch.tensor([[1.0, 0.0]] + [[-1.0, 0.0]] * (n_way - 1))[None]
    support = Examples(x=x, y=torch.arange(n_way)[None])
    learner = MatchingNet(spec, backbone=Flatten, sharpness=1.0).eval()
    got = learner.predict(learner.adapt(support), x[:, :1]).softmax(-1)[0, 0, 0]
    assert float(got) == pytest.approx(math.e / (math.e + (n_way - 1) / math.e), rel=1e-5)


def test_full_context_reads_the_support_in_both_directions_and_its_order_matters() -> None:
    learner, episodes = build(FullContextMatchingNet, CLASSES), make_episodes(CLASSES)
    s = episodes.support
    order = torch.tensor([1, 0, 2, 3, 4, 5])
    shuffled = Examples(x=s.x[:, order], y=s.y[:, order])
    assert not torch.allclose(outputs(learner, episodes, shuffled), outputs(learner, episodes), atol=1e-3)
    here = learner.adapt(s)["features"]
    for changed, seen in ((0, 5), (5, 0)):  # the last example is in the context of the first, and the other way round
        x = s.x.clone()
        x[:, changed] += 1
        there = learner.adapt(Examples(x=x, y=s.y))["features"]
        assert not torch.allclose(there[:, seen], here[:, seen], atol=1e-5)


def test_a_relation_network_has_the_papers_shapes_on_omniglot() -> None:
    learner = RelationNet(IMAGES)
    assert learner.embed.backbone.map_shape == (64, 5, 5)
    shapes = [tuple(p.shape) for p in learner.relation.parameters() if p.ndim > 1]
    assert shapes == [(64, 128, 3, 3), (64, 64, 3, 3), (8, 64), (1, 8)]


def test_a_relation_network_compares_maps_that_are_too_small_to_halve() -> None:
    spec = TaskSpec((1, 16, 16), Classes(3))
    learner, episodes = build(partial(RelationNet, backbone=Conv4), spec), make_episodes(spec)
    assert learner.embed.backbone.map_shape == (64, 1, 1)
    assert outputs(learner, episodes).shape == (3, 4, 3)


# ------------------------------------------------------- cosines and distances


def test_cosines_and_distances_are_those_of_torch() -> None:
    a, b = torch.randn(2, 3, 5), torch.randn(2, 4, 5)
    torch.testing.assert_close(squared_distances(a, b), torch.cdist(a, b).square())
    torch.testing.assert_close(cosines(a, b), F.cosine_similarity(a[:, :, None], b[:, None], dim=-1))


def test_a_vector_without_length_has_cosine_zero_and_a_small_gradient() -> None:
    a = torch.zeros(1, 1, 3, requires_grad=True)
    cosine = cosines(a, torch.ones(1, 1, 3))
    assert not cosine.any()
    cosine.sum().backward()
    assert a.grad.norm() <= 1e4


def test_distances_stay_exact_under_autocast() -> None:
    a, b = 100 + torch.randn(1, 2, 8), 100 + torch.randn(1, 3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        rough = squared_distances(a, b)
    assert torch.equal(rough, squared_distances(a, b))


# ------------------------------------------------------------------- arguments


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="expected images of at least 10x10"):
        RelationConv((1, 9, 9))
