"""Projection starts as the features it corrects, at one length; over a frozen backbone only the map is trained."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from metabox.learners import ProtoNet
from metabox.nn.backbones import MLP, Flatten
from metabox.nn.efficientnet import EfficientNetLite0
from metabox.nn.projection import Projection
from metabox.targets import Classes, TaskSpec


def moved(net: Projection) -> Projection:
    """With a centre, a correction and another length, as after training."""
    with torch.no_grad():
        net.centre.normal_(std=0.3)
        net.up.weight.normal_(std=0.1)
        net.log_length.fill_(0.5)
    return net


def test_features_are_the_corrected_ones_at_the_learned_length() -> None:
    net, x = moved(Projection((6,), Flatten, rank=2)).eval(), torch.randn(5, 6)
    h = F.normalize(F.normalize(x, dim=-1) * 6**0.5 - net.centre, dim=-1) * 6**0.5
    expected = F.normalize(h + h @ net.down.weight.T @ net.up.weight.T, dim=-1) * torch.tensor(0.5).exp()
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_it_starts_as_the_features_to_a_power_at_one_length(power: float) -> None:
    net, x = Projection((6,), Flatten, power=power), torch.tensor([[1.0, 4.0, 0.0, -9.0, 0.0, 0.0]])
    expected = F.normalize(torch.tensor([[1.0, 4.0**power, 0.0, -(9.0**power), 0.0, 0.0]]), dim=-1) * 4
    torch.testing.assert_close(net(x), expected, rtol=1e-3, atol=1e-3)


def test_gradients_stay_finite_where_features_are_zero() -> None:
    x = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    moved(Projection((3,), Flatten, power=0.5))(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_dropout_is_of_training_only() -> None:
    net, x = moved(Projection((6,), partial(MLP, width=32), dropout=0.5)), torch.rand(5, 6)
    assert not net.train()(x).equal(net(x))
    assert net.eval()(x).equal(net(x))


def test_over_a_frozen_backbone_only_the_map_is_trained() -> None:
    backbone = partial(EfficientNetLite0, pretrained=False, size=None)
    learner = ProtoNet(TaskSpec((3, 32, 32), Classes(3)), backbone=partial(Projection, backbone=backbone, rank=4))
    trained = {name for name, part in learner.named_parameters() if part.requires_grad}
    assert trained == {f"embed.backbone.{name}" for name in ("centre", "down.weight", "up.weight", "log_length")}
    assert learner.train().embed.backbone.norm == "batch"
    assert not any(part.training for part in learner.modules() if isinstance(part, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("options", [{"rank": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"power": 0.0}])
def test_senseless_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Projection((6,), Flatten, **options)  # type: ignore[arg-type]
