"""The inner loops of the recipes with MAML's published numbers, against what its authors' code computes."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metabox import recipe
from metabox.learners.maml import ANIL, MAML
from metabox.nn.backbones import MLP
from metabox.targets import Classes, Reals, TaskSpec
from metabox.testing import SPECS, build, make_episodes

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("learn2learn") is None, reason="MAML needs the optional package learn2learn"
)


class Theirs(NamedTuple):
    """The options of the authors' command (github.com/cbfinn/maml, main.py), and what the paper changes in them."""

    update_lr: float
    num_updates: int
    n_way: int
    k: int
    max_pool: bool
    omniglot: bool


RECIPES = {
    "omniglot-5w1s-maml": Theirs(0.4, 1, 5, 1, False, True),
    "omniglot-5w5s-maml": Theirs(0.4, 1, 5, 5, False, True),
    "omniglot-20w1s-maml": Theirs(0.1, 5, 20, 1, False, True),
    "omniglot-20w5s-maml": Theirs(0.1, 5, 20, 5, False, True),
    "miniimagenet-5w1s-maml": Theirs(0.01, 5, 5, 1, True, False),
    "miniimagenet-5w5s-maml": Theirs(0.01, 5, 5, 5, True, False),
    "cifarfs-5w1s-maml": Theirs(0.01, 5, 5, 1, True, False),
    "cifarfs-5w5s-maml": Theirs(0.01, 5, 5, 5, True, False),
}


def learner_of(name: str, spec: TaskSpec) -> MAML:
    parser = recipe.make_parser(recipe.find(name))
    config = recipe.parse(parser, [])
    config.tasks, config.evaluation = None, None  # which would open data
    return parser.instantiate(config).learner(spec)


def forward(weights: dict[str, Tensor], shifts: list[Tensor], x: Tensor, theirs: Theirs) -> Tensor:
    """`forward_conv` and `conv_block`: batch statistics, a shift and no factor."""
    hidden = x
    for i, shift in enumerate(shifts):
        hidden = F.conv2d(hidden, weights[f"conv{i}"], stride=1 if theirs.max_pool else 2, padding=1)
        mean, variance = hidden.mean((0, 2, 3), keepdim=True), hidden.var((0, 2, 3), correction=0, keepdim=True)
        hidden = F.relu((hidden - mean) / (variance + 1e-5).sqrt() + shift[:, None, None])
        hidden = F.max_pool2d(hidden, 2) if theirs.max_pool else hidden
    hidden = hidden.mean((2, 3)) if theirs.omniglot else hidden.flatten(1)
    return hidden @ weights["w5"].T + weights["b5"]


def xent(pred: Tensor, label: Tensor, k: int) -> Tensor:
    """One number for each example; `tf.gradients` of such a vector is the gradient of its sum."""
    return F.cross_entropy(pred, label, reduction="none") / k


def task_metalearn(
    weights: dict[str, Tensor], shifts: list[Tensor], x: Tensor, label: Tensor, theirs: Theirs, steps: int
) -> dict[str, Tensor]:
    """The fast weights of one task."""
    for _ in range(steps):
        loss = xent(forward(weights, shifts, x, theirs), label, theirs.k)
        gradients = torch.autograd.grad(loss.sum(), list(weights.values()))
        weights = {
            name: weight - theirs.update_lr * gradient
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        }
    return weights


OUR_NAMES = {f"conv{i}": f"weights.embed.backbone.blocks.{i}.0.weight" for i in range(4)}
OUR_NAMES |= {"w5": "weights.head.weight", "b5": "weights.head.bias"}


@pytest.mark.parametrize("name", RECIPES)
def test_the_inner_loop_of_a_claimed_recipe_is_that_of_the_authors_code(name: str) -> None:
    theirs = RECIPES[name]
    spec = TaskSpec((1, 28, 28) if theirs.omniglot else (3, 32, 32), Classes(theirs.n_way))
    torch.manual_seed(0)
    learner = learner_of(name, spec).double().train()
    assert learner.steps == theirs.num_updates
    with torch.no_grad():  # batch norm's shifts are 0 at first
        for block in learner.network.embed.backbone.blocks:
            block[1].norm.bias.normal_()
    n = theirs.n_way * theirs.k
    support = make_episodes(spec, n_tasks=1, n_support=n).support
    support = replace(support, y=(torch.arange(n) % theirs.n_way)[None])
    phi = learner.adapt(support)
    shifts = [block[1].norm.bias for block in learner.network.embed.backbone.blocks]
    own = dict(learner.network.named_parameters())
    weights = {their: own[our.removeprefix("weights.")] for their, our in OUR_NAMES.items()}
    wanted = task_metalearn(weights, shifts, support.x[0].double() / 255, support.y[0], theirs, theirs.num_updates)
    for their, our in OUR_NAMES.items():
        moved = phi[our][0] - weights[their]
        assert moved.abs().max() > 1e-6
        torch.testing.assert_close(moved, wanted[their] - weights[their], rtol=1e-3, atol=1e-6)
    for i, shift in enumerate(shifts):
        assert torch.equal(phi[f"weights.embed.backbone.blocks.{i}.1.norm.bias"][0], shift)
        assert f"weights.embed.backbone.blocks.{i}.1.norm.weight" not in phi
    assert sum(parameter.numel() for parameter in own.values() if parameter.requires_grad) == sum(
        weight.numel() for weight in [*weights.values(), *shifts]
    )


def test_the_last_layer_begins_as_in_the_authors_code() -> None:
    head = learner_of("omniglot-20w1s-maml", TaskSpec((1, 28, 28), Classes(20))).network.head
    assert head.weight.shape == (20, 64)  # the last map is averaged
    assert 0.9 < head.weight.std() < 1.1
    assert not head.bias.any()


def test_the_step_on_sinusoids_is_that_of_the_paper_on_the_mean_squared_error() -> None:
    spec = TaskSpec((1,), Reals(1))
    learner, support = learner_of("sinusoid-maml", spec).double(), make_episodes(spec, n_tasks=1, n_support=10).support
    support = replace(support, x=support.x.double(), y=support.y.double())
    phi = learner.adapt(support)
    weights = list(learner.network.parameters())
    one, _, two, _ = learner.network.embed.backbone.layers
    hidden = F.relu(two(F.relu(one(support.x[0]))))
    mean = learner.network.head(hidden)[:, :1]
    gradients = torch.autograd.grad((mean - support.y[0]).square().mean(), weights)
    for (name, weight), gradient in zip(learner.network.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(phi[f"weights.{name}"][0], weight - 0.01 * gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [MAML, ANIL])
def test_first_weights_of_the_last_layer_are_torchs_by_default(make: type[MAML]) -> None:
    spec = SPECS["classes of vectors"]
    torch.manual_seed(0)
    plain = make(spec, backbone=MLP).network.head
    torch.manual_seed(0)
    assert torch.equal(make(spec, backbone=MLP, head_std=None).network.head.weight, plain.weight)
    assert not make(spec, backbone=MLP, head_std=0.0).network.head.weight.any()


def test_norms_that_the_inner_loop_leaves_alone_are_trained_by_the_outer_one() -> None:
    options: dict[str, Any] = {"adapt_norm": False, "lr": 0.1}
    learner = build(lambda spec: MAML(spec, **options), SPECS["classes of images"])
    episodes = make_episodes(SPECS["classes of images"])
    learner.train()(episodes).square().sum().backward()
    for name, parameter in learner.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
