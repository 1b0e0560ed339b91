"""Projection: a linear map over another backbone, at one length; over a frozen one only the map is trained."""

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


def test_features_are_the_map_of_the_normalised_features_at_the_learned_length() -> None:
    net = Projection((6,), Flatten, width=4).eval()
    with torch.no_grad():
        net.log_length.fill_(0.5)
    x = torch.rand(5, 6)
    expected = F.normalize(F.normalize(x, dim=-1) @ net.linear.weight.T, dim=-1) * torch.tensor(0.5).exp()
    torch.testing.assert_close(net(x), expected)


def test_a_map_that_is_wide_enough_starts_as_the_cosine_of_the_features() -> None:
    net, x = Projection((6,), Flatten, width=6).eval(), torch.rand(5, 6)
    h = F.normalize(net(x), dim=-1)
    torch.testing.assert_close(h @ h.T, F.normalize(x, dim=-1) @ F.normalize(x, dim=-1).T)


def test_dropout_is_of_training_only() -> None:
    net, x = Projection((6,), partial(MLP, width=32), width=8, dropout=0.5), torch.rand(5, 6)
    assert not net.train()(x).equal(net(x))
    assert net.eval()(x).equal(net(x))


def test_over_a_frozen_backbone_only_the_map_is_trained() -> None:
    backbone = partial(EfficientNetLite0, pretrained=False, size=None)
    learner = ProtoNet(TaskSpec((3, 32, 32), Classes(3)), backbone=partial(Projection, backbone=backbone, width=4))
    trained = {name for name, part in learner.named_parameters() if part.requires_grad}
    assert trained == {"embed.backbone.linear.weight", "embed.backbone.log_length"}
    assert learner.train().embed.backbone.norm == "batch"
    assert not any(part.training for part in learner.modules() if isinstance(part, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("options", [{"width": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_senseless_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Projection((6,), Flatten, **options)  # type: ignore[arg-type]
