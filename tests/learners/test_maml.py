"""MAML and ANIL against loops of `torch.autograd.grad`, `torch.func` and finite differences."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from metabox.episodes import Episodes, Examples
from metabox.evaluation import normalisation
from metabox.learners import maml
from metabox.learners.maml import ANIL, MAML
from metabox.nn.backbones import MLP, Conv4
from metabox.objectives import QueryLoss
from metabox.targets import Binary, Classes, Reals, TaskSpec
from metabox.testing import build, make_episodes, outputs

CLASSES = TaskSpec((4,), Classes(3))
IMAGES = TaskSpec((1, 16, 16), Classes(3))
REALS = TaskSpec((2,), Reals(2))
BINARY = TaskSpec((4,), Binary(2))
DESCRIBED = TaskSpec((4,), Classes(3), descriptor_size=2)
KINDS = [CLASSES, IMAGES, REALS, BINARY, DESCRIBED]

needs_learn2learn = pytest.mark.skipif(
    importlib.util.find_spec("learn2learn") is None, reason="MAML needs the optional package learn2learn"
)


def ragged(spec: TaskSpec) -> Episodes:
    """Episodes whose supports have 6, 4 and 0 real examples, with padding in between."""
    episodes = make_episodes(spec)
    mask = torch.tensor([[True] * 6, [True, False, True, True, False, True], [False] * 6])
    return replace(episodes, support=replace(episodes.support, mask=mask))


def plain_loss(spec: TaskSpec, params: Tensor, y: Tensor) -> Tensor:
    """The mean over examples of equation (3), or of equation (2), halved, summed over the targets of an example."""
    if spec.target.n_classes is not None:
        shown, own = y.unique(return_inverse=True)  # the label set
        return F.cross_entropy(params[:, shown], own)
    if isinstance(spec.target, Binary):
        return F.binary_cross_entropy_with_logits(params, y, reduction="none").sum(1).mean()
    return (0.5 * (params[:, : spec.target.size] - y) ** 2).sum(1).mean()


def inside(phi: dict[str, Tensor], t: int, params: Tensor) -> Tensor:
    """The predictions for the classes that the task has."""
    return params[:, phi["classes"][t]] if "classes" in phi else params


def plain_network(network: nn.Module, x: Tensor, z: Tensor | None) -> Tensor:
    """Examples `[N, ...]` of one task, by the same layers: a backbone that knows nothing of tasks, and the head."""
    h = network.embed.backbone(x)
    return network.head(h if z is None else torch.cat([h, z.expand(len(h), -1)], dim=1))


def plain_adapt(learner: MAML, episodes: Episodes, t: int, steps: int) -> nn.Module:
    """Algorithm 2, lines 5 to 7, for one task: a copy of the network whose weights are replaced step by step."""
    s = episodes.support
    x, y = s.x[t][s.mask[t]], s.y[t][s.mask[t]]
    z = None if episodes.descriptor is None else episodes.descriptor[t]
    network = copy.deepcopy(learner.network)
    for _ in range(steps if len(y) else 0):
        weights = list(network.parameters())
        loss = plain_loss(learner.spec, plain_network(network, x, z), y)
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.data = weight.data - learner.lr * gradient
    return network


@needs_learn2learn
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_maml_adapts_as_a_plain_loop_of_gradient_steps_does(spec: TaskSpec, steps: int) -> None:
    learner, episodes = build(partial(MAML, evaluation_steps=steps), spec), ragged(spec)
    phi = learner.adapt(episodes.support, episodes.descriptor)
    got = learner.predict(phi, episodes.query.x)
    for t in range(3):
        network = plain_adapt(learner, episodes, t, steps)
        for name, weight in network.named_parameters():
            torch.testing.assert_close(phi[f"weights.{name}"][t], weight, rtol=1e-4, atol=1e-5)
        z = None if episodes.descriptor is None else episodes.descriptor[t]
        wanted = plain_network(network, episodes.query.x[t], z)
        torch.testing.assert_close(inside(phi, t, got[t]), inside(phi, t, wanted), rtol=1e-4, atol=1e-5)


@needs_learn2learn
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_anil_adapts_the_head_by_a_plain_loop_and_leaves_the_backbone_alone(spec: TaskSpec, steps: int) -> None:
    learner, episodes = build(partial(ANIL, evaluation_steps=steps), spec), ragged(spec)
    before = copy.deepcopy(learner.network.embed.state_dict())
    phi = learner.adapt(episodes.support, episodes.descriptor)
    assert {name for name in phi if name.startswith("weights.")} == {"weights.head.weight", "weights.head.bias"}
    assert all(torch.equal(before[name], value) for name, value in learner.network.embed.state_dict().items())
    got = learner.predict(phi, episodes.query.x)
    for t in range(3):
        head, s = learner.network.head, episodes.support
        weight, bias, y = head.weight.detach(), head.bias.detach(), s.y[t][s.mask[t]]
        h, h_query = (
            torch.cat([learner.network.embed.backbone(x), z.expand(len(x), -1)], 1).detach()
            for z in [episodes.descriptor[t] if episodes.descriptor is not None else torch.zeros(0)]
            for x in (s.x[t][s.mask[t]], episodes.query.x[t])
        )
        for _ in range(steps if len(y) else 0):
            weight, bias = weight.requires_grad_(), bias.requires_grad_()
            loss = plain_loss(spec, h @ weight.T + bias, y)
            d_weight, d_bias = torch.autograd.grad(loss, [weight, bias])
            weight, bias = (weight - learner.lr * d_weight).detach(), (bias - learner.lr * d_bias).detach()
        torch.testing.assert_close(phi["weights.head.weight"][t], weight, rtol=1e-4, atol=1e-5)
        wanted = h_query @ weight.T + bias
        torch.testing.assert_close(inside(phi, t, got[t]), inside(phi, t, wanted), rtol=1e-4, atol=1e-5)


@needs_learn2learn
def test_anil_is_maml_with_a_frozen_backbone() -> None:
    anil, episodes = build(partial(ANIL, steps=2), CLASSES), ragged(CLASSES)
    same = build(partial(MAML, steps=2), CLASSES)
    same.load_state_dict(anil.state_dict())
    same.network.embed.requires_grad_(False)
    torch.testing.assert_close(outputs(same, episodes), outputs(anil, episodes), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ the gradient of the outer loop


def small(make: type[MAML], **options: object) -> MAML:
    """In double precision, with a network of few weights."""
    return build(partial(make, backbone=lambda shape: MLP(shape, width=5), **options), CLASSES).double().train()


def in_doubles(examples: Examples) -> Examples:
    return Examples(x=examples.x.double(), y=examples.y)


def outer_loss(learner: MAML, episodes: Episodes) -> Tensor:
    phi = learner.adapt(in_doubles(episodes.support))
    q = episodes.query
    return F.cross_entropy(learner.predict(phi, q.x.double()).flatten(0, 1), q.y.flatten())


def meta_gradient(learner: MAML, episodes: Episodes) -> dict[str, Tensor]:
    names, weights = zip(*learner.network.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(outer_loss(learner, episodes), weights), strict=True))


def whole(learner: MAML, episodes: Episodes, adapted: Callable[[str], bool]) -> Callable[[dict[str, Tensor]], Tensor]:
    """Weights to the loss after adaptation, by torch.func: equation (1)."""

    def loss(weights: dict[str, Tensor], examples: Examples, t: int) -> Tensor:
        params = functional_call(learner.network, weights, (examples.x[t : t + 1].double(), {}))
        return F.cross_entropy(params[0], examples.y[t])

    def after(weights: dict[str, Tensor]) -> Tensor:
        losses = []
        for t in range(len(episodes)):
            mine = weights
            for _ in range(learner.steps):
                step = torch.func.grad(loss)(mine, episodes.support, t)
                mine = {n: w - learner.lr * step[n] if adapted(n) else w for n, w in mine.items()}
            losses.append(loss(mine, episodes.query, t))
        return torch.stack(losses).mean()

    return after


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Likelihoods compute in float32 at least; here in double precision."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@needs_learn2learn
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("make", [MAML, ANIL])
def test_the_outer_loops_gradient_is_that_of_the_whole(make: type[MAML], steps: int) -> None:
    learner, episodes = small(make, steps=steps), make_episodes(CLASSES)
    got = meta_gradient(learner, episodes)
    after = whole(learner, episodes, adapted=lambda name: make is MAML or name.startswith("head."))
    weights = {name: p.detach() for name, p in learner.network.named_parameters()}
    wanted = torch.func.grad(after)(weights)
    torch.manual_seed(1)
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-9, atol=1e-12)
        # And by finite differences, in a direction.
        direction, step = torch.randn_like(gradient), 1e-5
        parameter = dict(learner.network.named_parameters())[name]
        sides = []
        for sign in (1, -1):
            parameter.data = weights[name] + sign * step * direction
            sides.append(outer_loss(learner, episodes).detach())
        parameter.data = weights[name]
        difference = (sides[0] - sides[1]) / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-5, atol=1e-9)


@needs_learn2learn
@pytest.mark.usefixtures("exact")
def test_the_first_order_gradient_is_that_of_the_query_loss_at_the_adapted_weights() -> None:
    episodes, first, second = make_episodes(CLASSES), small(MAML, first_order=True, steps=2), small(MAML, steps=2)
    phi = first.adapt(in_doubles(episodes.support))
    got, exactly = meta_gradient(first, episodes), meta_gradient(second, episodes)
    q = episodes.query
    for name, gradient in got.items():
        here = {n: w.detach().requires_grad_() for n, w in phi.items() if n != "classes"}
        loss = F.cross_entropy(
            first.predict(here | {"classes": phi["classes"]}, q.x.double()).flatten(0, 1), q.y.flatten()
        )
        wanted = torch.autograd.grad(loss, here[f"weights.{name}"])[0].sum(0)
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)
    gap = {name: float((got[name] - exactly[name]).norm() / exactly[name].norm()) for name in got}
    assert max(gap.values()) > 0.01


@needs_learn2learn
def test_evaluation_without_gradients_gives_the_same_phi_and_keeps_no_graph() -> None:
    learner, episodes = build(partial(MAML, evaluation_steps=3), IMAGES), make_episodes(IMAGES)
    with torch.no_grad():
        phi = learner.adapt(episodes.support)
    wanted = learner.adapt(episodes.support)
    for name, value in phi.items():
        assert not value.requires_grad
        torch.testing.assert_close(value, wanted[name])
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"use torch\.no_grad"):
        learner.adapt(episodes.support)


@needs_learn2learn
@pytest.mark.parametrize("make", [MAML, ANIL])
def test_without_support_phi_is_the_shared_network(make: type[MAML]) -> None:
    learner, episodes = build(make, IMAGES), ragged(IMAGES)
    shared = dict(learner.network.named_parameters())
    nothing = make_episodes(IMAGES, n_support=0).support
    for phi, t in ((learner.adapt(nothing), 0), (learner.adapt(episodes.support), 2)):
        for name, value in phi.items():
            assert name == "classes" or torch.equal(value[t], shared[name.removeprefix("weights.")])


# ------------------------------------------------------------------ normalisation


@needs_learn2learn
@pytest.mark.parametrize("norm", ["batch", "transductive", "support"])
def test_statistics_of_the_images_are_those_of_each_norm_under_the_adapted_weights(norm: str) -> None:
    """Conv4 by hand: whose mean and variance each layer takes, in every inner step and for the queries."""
    make = partial(MAML, backbone=lambda shape: Conv4(shape, width=8, norm=norm), evaluation_steps=2)
    learner, episodes = build(make, IMAGES), make_episodes(IMAGES)
    got = outputs(learner, episodes)
    network = copy.deepcopy(learner.network)
    weights = {name: p.detach().clone() for name, p in network.named_parameters()}
    running = dict(network.named_buffers())

    def forward(weights: dict[str, Tensor], x: Tensor, given: list | None) -> tuple[Tensor, list]:
        h, seen = x.float() / 255, []
        for i in range(4):
            block = f"embed.backbone.blocks.{i}"
            h = F.conv2d(h, weights[f"{block}.0.weight"], padding=1)
            if norm == "batch":
                mean, var = running[f"{block}.1.norm.running_mean"], running[f"{block}.1.norm.running_var"]
            elif given is not None:
                mean, var = given[i]
            else:
                mean, var = h.mean((0, 2, 3)), h.var((0, 2, 3), correction=0)
            seen.append((mean, var))
            scale, shift = weights[f"{block}.1.norm.weight"], weights[f"{block}.1.norm.bias"]
            h = (h - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * scale[:, None, None]
            h = F.max_pool2d(torch.relu(h + shift[:, None, None]), 2)
        return h.flatten(1) @ weights["head.weight"].T + weights["head.bias"], seen

    for t in range(3):
        mine = weights
        for _ in range(2):
            mine = {name: w.detach().requires_grad_() for name, w in mine.items()}
            loss = F.cross_entropy(forward(mine, episodes.support.x[t], None)[0], episodes.support.y[t])
            gradients = torch.autograd.grad(loss, list(mine.values()))
            mine = {name: w - 0.4 * g for (name, w), g in zip(mine.items(), gradients, strict=True)}
        statistics = forward(mine, episodes.support.x[t], None)[1] if norm == "support" else None
        wanted = forward(mine, episodes.query.x[t], statistics)[0]
        torch.testing.assert_close(got[t], wanted, rtol=1e-3, atol=1e-3)
    assert normalisation(learner)["transductive"] == (norm == "transductive")


@needs_learn2learn
@pytest.mark.parametrize("make", [MAML, ANIL])
def test_running_statistics_move_in_training_and_stay_in_evaluation(make: type[MAML]) -> None:
    learner, episodes = build(make, IMAGES), make_episodes(IMAGES)
    before = {name: value.clone() for name, value in learner.named_buffers()}
    learner(episodes)
    assert all(torch.equal(before[name], value) for name, value in learner.named_buffers())
    learner.train()(episodes)
    assert not any(torch.equal(before[name], value) for name, value in learner.named_buffers())


# ------------------------------------------------------------------ the learner as a whole


@needs_learn2learn
def test_a_copy_of_a_learner_is_independent_and_its_options_show() -> None:
    learner = build(partial(MAML, lr=0.3, steps=2), CLASSES)
    twin = copy.deepcopy(learner)
    episodes = make_episodes(CLASSES)
    torch.testing.assert_close(outputs(twin, episodes), outputs(learner, episodes))
    options = {"lr": 0.3, "steps": 2, "evaluation_steps": None, "first_order": False}
    assert options.items() <= learner.config.items()


@needs_learn2learn
def test_weights_that_are_frozen_are_no_part_of_phi() -> None:
    learner, episodes = build(MAML, CLASSES), make_episodes(CLASSES)
    learner.network.embed.requires_grad_(False)
    assert set(learner.adapt(episodes.support)) == {"classes", "weights.head.weight", "weights.head.bias"}
    learner.train()
    QueryLoss(learner)(episodes)["loss"].sum().backward()
    assert all(p.grad is None for p in learner.network.embed.parameters())
    assert learner.network.head.weight.grad.abs().max() > 0


@needs_learn2learn
@pytest.mark.parametrize("target", [Reals(2, noise=1.0), Reals(2)], ids=str)
def test_predicted_scales_have_no_part_in_the_inner_loop(target: Reals) -> None:
    learner = MAML(replace(REALS, target=target)).eval()
    phi = learner.adapt(make_episodes(REALS).support)
    moved = (phi["weights.head.bias"] - learner.network.head.bias).abs() > 0
    assert moved[:, :2].all()
    assert not moved[:, 2:].any()


@needs_learn2learn
@pytest.mark.parametrize("options", [{"lr": 0.0}, {"steps": 0}, {"evaluation_steps": 0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"expected (lr|steps|evaluation_steps) as a .*number .*got 0"):
        MAML(CLASSES, **options)


@needs_learn2learn
def test_nothing_is_printed_when_learn2learn_is_imported() -> None:
    script = "from metabox.learners.maml import learn2learn; learn2learn()"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_without_learn2learn_the_error_names_the_script_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    maml.learn2learn.cache_clear()
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    for make in (MAML, ANIL):
        with pytest.raises(ImportError, match=r"run `python benchmarks/install_learn2learn\.py`"):
            make(CLASSES)
    monkeypatch.undo()
    assert (Path(__file__).parents[2] / "benchmarks" / "install_learn2learn.py").is_file()
