"""Where a task code enters a network: at its input, at any layer, at the features, or at all of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metabox.learners.multitask.hard_sharing import HardSharing
from metabox.nn.backbones import MLP, Conv4, Flatten
from metabox.nn.conditioned import ConditionedLayer
from metabox.nn.conditioning import Add, Concat, FiLM, Gate
from metabox.nn.norm import Context
from metabox.nn.resnet import ResNet12
from metabox.targets import Classes, Reals, TaskSpec
from metabox.testing import CHECKS, SPECS, build, make_episodes, outputs

VECTORS = TaskSpec((6,), Reals(1, noise=1), descriptor_size=3, tasks=("a", "b", "c"), index_size=3)
IMAGES = TaskSpec((2, 16, 16), Classes(3), descriptor_size=3, tasks=("a", "b", "c"), index_size=3)
PLACES = ["input", 1, "features", "all"]
WIDTH = 5  # below the number of inputs, so that what is added to the outputs can be added to the inputs as well


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def made(condition: Any, at: Any, spec: TaskSpec = VECTORS) -> HardSharing:
    backbone = partial(MLP, width=WIDTH) if len(spec.x_shape) == 1 else partial(Conv4, width=4, norm="group")
    return build(partial(HardSharing, backbone=backbone, condition=condition, at=at), spec).double()


def entries(learner: HardSharing) -> list[tuple[Any, Any]]:
    """Each conditioner and the layer that reads what it gives, from the input up."""
    found: list[Any] = [(m.condition, m.layer) for m in learner.modules() if isinstance(m, ConditionedLayer)]
    return found + ([(learner.condition, learner.head[0])] if learner.condition else [])


def others(learner: HardSharing) -> list[nn.Parameter]:
    """The parameters of all that neither is a conditioner nor reads one."""
    those = {id(p) for entry in entries(learner) for module in entry for p in module.parameters()}
    return [p for p in learner.parameters() if id(p) not in those]


def predicted(learner: HardSharing, x: Tensor, code: Tensor) -> Tensor:
    return learner.outputs(learner.embed.backbone(x, learner.modulation(code)), code)


@torch.no_grad()
def copy(target: HardSharing, source: HardSharing) -> None:
    for mine, theirs in zip(others(target), others(source), strict=True):
        mine.copy_(theirs)


@pytest.mark.parametrize("at", PLACES)
def test_at_any_layer_addition_can_do_what_concatenation_does(at: Any) -> None:
    concat, add = made(Concat, at), made(Add, at)
    assert len(entries(concat)) == len(entries(add)) == (3 if at == "all" else 1)
    copy(add, concat)
    with torch.no_grad():
        for (adds, after), (_, wide) in zip(entries(add), entries(concat), strict=True):
            of_h, of_z = wide.weight.split([after.weight.shape[1], 3], dim=1)
            after.weight.copy_(of_h)
            after.bias.copy_(wide.bias)
            adds.shift.weight.copy_(torch.linalg.pinv(of_h) @ of_z)  # W_h S = W_z has a solution: outputs <= inputs
            adds.shift.bias.zero_()
    x, code = torch.randn(3, 4, 6, dtype=torch.double), torch.randn(3, 3, dtype=torch.double)
    torch.testing.assert_close(predicted(add, x, code), predicted(concat, x, code))


@pytest.mark.parametrize("spec", [VECTORS, IMAGES], ids=["vectors", "images"])
@pytest.mark.parametrize("at", PLACES)
def test_at_any_layer_concatenation_can_do_what_addition_does(at: Any, spec: TaskSpec) -> None:
    """Whatever the width; and for convolutions, beyond whose border is neither image nor code. The code is an index."""
    concat, add = made(Concat, at, spec), made(Add, at, spec)
    copy(concat, add)
    with torch.no_grad():
        for (adds, after), (_, wide) in zip(entries(add), entries(concat), strict=True):
            shift = adds.shift.weight + adds.shift.bias[:, None]
            of_z = torch.einsum("oi...,ik->ok...", after.weight, shift)
            wide.weight.copy_(torch.cat([after.weight, of_z], dim=1))
            if after.bias is not None:
                wide.bias.copy_(after.bias)
    x, code = torch.rand(3, 4, *spec.x_shape, dtype=torch.double), torch.eye(3, dtype=torch.double)
    wanted = predicted(add, x, code)
    torch.testing.assert_close(predicted(concat, x, code), wanted)
    assert (wanted - predicted(add, x, code.flip(0))).abs().max() > 1e-3


def test_in_an_image_the_code_is_constant_maps_beside_the_channels() -> None:
    layer = ConditionedLayer(nn.Conv2d(2, 4, 3, stride=2, padding=1), Concat, 3)
    x, code = torch.rand(2 * 5, 2, 8, 8), torch.randn(2, 3)
    maps = code.repeat_interleave(5, dim=0)[..., None, None].expand(-1, -1, 8, 8)
    got = layer(x, Context(known={"code": code}, n_tasks=2))
    torch.testing.assert_close(got, layer.layer(torch.cat([x, maps], dim=1)))
    assert got.shape == (10, 4, 4, 4)
    with pytest.raises(ValueError, match="expected the code of each task for conditioned layers, got none"):
        layer(x, Context(n_tasks=2))


@pytest.mark.parametrize("layer", [nn.Linear(4, 7), nn.Conv2d(4, 7, 3, bias=False)], ids=["linear", "convolution"])
def test_a_layer_that_is_widened_begins_with_the_weights_that_it_had(layer: Any) -> None:
    wide = ConditionedLayer(layer, Concat, 60).layer
    assert torch.equal(wide.weight[:, :4], layer.weight)
    assert wide.weight.shape[:2] == (7, 64)
    assert wide.bias is layer.bias


@pytest.mark.parametrize("condition", [Concat, Add, Gate, FiLM])
@pytest.mark.parametrize("at", PLACES)
def test_the_code_enters_where_it_is_told_to_and_nowhere_else(condition: Any, at: Any) -> None:
    learner = made(condition, at)
    kinds = [
        type(m.condition).__name__ if isinstance(m, ConditionedLayer) else "" for m in learner.embed.backbone.layers
    ]
    inside = [place for place, kind in enumerate(kinds[::2]) if kind == condition.__name__]
    assert inside == {"input": [0], 1: [1], "features": [], "all": [0, 1]}[at]
    assert (learner.condition is None) == (at in ("input", 1))
    phi = learner.float().adapt(make_episodes(VECTORS).support, torch.eye(3))
    assert ("backbone.code" in phi) == bool(inside)


@pytest.mark.parametrize("at", ["input", "all"])
@pytest.mark.parametrize("kind", ["given", "both"])
@pytest.mark.parametrize("check", CHECKS)
def test_hard_sharing_conforms_wherever_the_code_enters(at: Any, kind: Any, check: str) -> None:
    make = partial(HardSharing, backbone=partial(MLP, width=32), condition=Add, at=at, code=kind)
    CHECKS[check](make, SPECS["named tasks"])


def test_a_code_at_the_input_is_inferred_by_bayes_rule_too() -> None:
    make = partial(HardSharing, condition=Concat, at="input")
    both, given, episodes = build(partial(make, code="both"), IMAGES), build(make, IMAGES), make_episodes(IMAGES)
    given.load_state_dict(both.state_dict())
    phi = both.adapt(episodes.support, torch.zeros(3, 3))
    one = [given.predict(given.adapt(episodes.support, torch.eye(3)[[k] * 3]), episodes.query.x) for k in range(3)]
    wanted = IMAGES.target.mixture(torch.stack(one, dim=1), phi["weights"])
    torch.testing.assert_close(both.predict(phi, episodes.query.x), wanted, rtol=1e-4, atol=1e-4)


def test_the_input_of_a_network_without_a_backbone_is_its_features() -> None:
    make = partial(HardSharing, backbone=Flatten, condition=Concat)
    one, other = build(partial(make, at="input"), VECTORS), build(make, VECTORS)
    episodes = make_episodes(VECTORS)
    assert torch.equal(outputs(one, episodes), outputs(other, episodes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": "input"}, "expected heads at the end, got at='input'"),
        ({"condition": Add, "at": 3}, "or a layer from 0 to 2, the number of layers of the backbone, got 3"),
        ({"condition": Add, "at": -1}, "expected at as .*, got -1"),
        ({"condition": Add, "at": "output"}, "expected at as .*, got 'output'"),
        (
            {"condition": Add, "at": "input", "backbone": ResNet12},
            "layers in a row, such as MLP or Conv4, got ResNet12",
        ),
    ],
)
def test_a_place_where_no_code_can_enter_is_refused(options: dict[str, Any], message: str) -> None:
    spec = IMAGES if options.get("backbone") else VECTORS
    with pytest.raises(ValueError, match=message):
        HardSharing(spec, **options)
