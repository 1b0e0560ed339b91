"""The relation network of its authors' code (github.com/floodsung/LearningToCompare_FSL), in plain torch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from learner_cases import REALS
from torch import Tensor, nn

from metabox import recipe
from metabox.episodes import Episodes
from metabox.evaluation import normalisation
from metabox.learners.cnp import CNP
from metabox.learners.relation import RelationConv, RelationNet
from metabox.objectives import SquaredLoss
from metabox.targets import Classes, TaskSpec
from metabox.testing import build, make_episodes, outputs
from metabox.testing.cases import MakeLearner

WAYS, SHOTS = 3, 2
IMAGES = TaskSpec((1, 28, 28), Classes(WAYS))


def made(spec: TaskSpec = IMAGES, **options: object) -> RelationNet:
    backbone = partial(RelationConv, width=6, norm="transductive")
    make: MakeLearner = partial(RelationNet, backbone=backbone, width=5, norm="transductive", bias=True, **options)
    return build(make, spec)


def episodes_of(spec: TaskSpec = IMAGES) -> Episodes:
    """Every class has SHOTS examples, one class after another."""
    episodes = make_episodes(spec, n_support=WAYS * SHOTS)
    y = torch.arange(WAYS).repeat_interleave(SHOTS).expand(len(episodes), -1)
    return replace(episodes, support=replace(episodes.support, y=y))


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Their batch norm, which is always in training mode: momentum 1 and nothing of other batches."""
    theirs = nn.BatchNorm2d(x.shape[1], momentum=1).train()
    theirs.load_state_dict(norm.norm.state_dict())
    return F.relu(theirs(x))


def encoded(backbone: RelationConv, x: Tensor) -> Tensor:
    h = x.float() / 255
    for i, (convolution, norm) in enumerate(zip(backbone.convolutions, backbone.norms, strict=True)):
        h = normed(norm, convolution(h))
        h = F.max_pool2d(h, 2) if i < 2 else h
    return h


def relations(learner: RelationNet, support: Tensor, batch: Tensor) -> Tensor:
    """The loop's body for one task, up to the sigmoid: scores `[M, C]`."""
    backbone, module = learner.embed.backbone, learner.relation
    sample = encoded(backbone, support).unflatten(0, (WAYS, SHOTS)).sum(1)
    features = encoded(backbone, batch)
    pairs = torch.cat(
        [sample[None].expand(len(features), -1, -1, -1, -1), features[:, None].expand(-1, WAYS, -1, -1, -1)], dim=2
    ).flatten(0, 1)
    h = F.max_pool2d(normed(module.norms[0], module.convolution(pairs)), 2)
    h = F.max_pool2d(normed(module.norms[1], module.second(h)), 2)
    _, first, _, last = module.score
    return last(F.relu(first(h.flatten(1)))).view(-1, WAYS)


@pytest.mark.parametrize("training", [True, False])
def test_transductive_scores_are_those_of_networks_that_never_leave_training_mode(training: bool) -> None:
    learner, episodes = made().train(training), episodes_of()
    with torch.no_grad():
        got = outputs(learner, episodes)
        for t in range(len(episodes)):
            wanted = relations(learner, episodes.support.x[t], episodes.query.x[t])
            torch.testing.assert_close(got[t], wanted, rtol=1e-3, atol=1e-4)
    assert normalisation(learner)["transductive"]
    assert learner.transductive


def test_a_class_outside_the_label_set_has_no_part_in_the_statistics_of_the_pairs() -> None:
    more = TaskSpec((1, 28, 28), Classes(WAYS + 2))
    learner, episodes = made(), episodes_of()
    wider = made(more)
    wider.load_state_dict(learner.state_dict())
    classes = torch.arange(WAYS + 2).expand(len(episodes), -1) < WAYS
    with torch.no_grad():
        got = outputs(wider, replace(episodes, classes=classes))
        torch.testing.assert_close(got[..., :WAYS], outputs(learner, episodes), rtol=1e-4, atol=1e-5)


def test_the_squared_loss_is_theirs() -> None:
    learner, episodes = made(), episodes_of()
    loss = SquaredLoss(learner)(episodes)["loss"]
    for t in range(len(episodes)):
        scores = relations(learner, episodes.support.x[t], episodes.query.x[t]).sigmoid()
        one_hot_labels = torch.zeros_like(scores).scatter_(1, episodes.query.y[t][:, None], 1)
        torch.testing.assert_close(loss[t], nn.MSELoss()(scores, one_hot_labels), rtol=1e-4, atol=1e-6)


def test_the_squared_loss_counts_the_classes_and_queries_that_a_task_has() -> None:
    learner, episodes = build(RelationNet, TaskSpec((4,), Classes(3))), make_episodes(TaskSpec((4,), Classes(3)))
    two = torch.tensor([True, True, False]).expand(len(episodes), -1)
    s, q = episodes.support, episodes.query
    few = replace(
        episodes, support=replace(s, y=s.y % 2), query=replace(q, y=q.y % 2, mask=q.mask & (q.y != 2)), classes=two
    )
    loss = SquaredLoss(learner)(few)["loss"]
    scores = learner(few)[..., :2].sigmoid()
    for t in range(len(few)):
        mine = few.query.mask[t]
        wanted = (scores[t][mine] - F.one_hot(few.query.y[t][mine], 2)).square().mean()
        torch.testing.assert_close(loss[t], wanted if mine.any() else torch.tensor(0.0))


def test_the_squared_loss_is_for_classes() -> None:
    with pytest.raises(ValueError, match="expected a learner of classes for SquaredLoss"):
        SquaredLoss(CNP(REALS))


def test_the_squared_loss_trains_the_last_bias() -> None:
    learner, episodes = made().train(), episodes_of()
    SquaredLoss(learner)(episodes)["loss"].sum().backward()
    assert learner.relation.score[-1].bias.grad.abs() > 0


@pytest.mark.parametrize(
    ("name", "transductive"), [("omniglot-5w1s-relation", True), ("omniglot-5w1s-relation-inductive", False)]
)
def test_a_claimed_recipe_is_transductive_and_its_twin_is_not(name: str, transductive: bool) -> None:
    parser = recipe.make_parser(recipe.find(name))
    config = recipe.parse(parser, [])
    config.tasks, config.evaluation = None, None  # which would open data
    learner = parser.instantiate(config).learner(IMAGES)
    assert normalisation(learner)["transductive"] is transductive
    assert learner.transductive is transductive
    assert bool(config.claim) is transductive
