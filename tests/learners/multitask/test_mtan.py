"""The multi-task attention network: its equations with plain layers, and what belongs to whom."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import metabox
from metabox import Direction, Laplace
from metabox.learners import MTAN
from metabox.learners.multitask.mtan import _Block, _Mask
from metabox.multitask.pixel_scores import pixel_scores
from metabox.nn.towers import shared_parameters, task_parameters
from metabox.targets import Classes, Part, Parts, Reals, TaskSpec
from metabox.tasks import Scenes
from metabox.testing import CHECKS

PARTS = (Part("kind", Classes(3), (8, 8)), Part("depth", Reals(1, noise=1), (4, 4)), Part("age", Reals(1, noise=1)))
SPEC = TaskSpec((2, 8, 8), Parts(PARTS), descriptor_size=2)


def mtan(spec: TaskSpec = SPEC) -> MTAN:
    torch.manual_seed(0)
    learner = MTAN(spec, width=4, depth=1)
    with torch.no_grad():  # so that no running moment is that of the start, and nothing is too small to be seen
        for parameter in learner.parameters():
            parameter.mul_(5 if parameter.ndim > 1 else 1)
        for name, buffer in learner.named_buffers():
            if "running" in name:
                buffer.copy_(0.2 * torch.rand_like(buffer) + (0.9 if "var" in name else -0.1))
    return learner.eval()


def block(layer: _Block, x: Tensor) -> Tensor:
    return torch.relu(layer.norm.norm(layer.conv(x)))


def mask(layer: _Mask, k: int, x: Tensor) -> Tensor:
    """The mask of part k alone, equation 2."""
    for conv, norm, end in ((layer.g, layer.norm_g, torch.relu), (layer.h, layer.norm_h, torch.sigmoid)):
        n = norm.num_features // 3
        own = slice(k * n, (k + 1) * n)
        x = F.conv2d(x, conv.weight[k])
        x = F.batch_norm(x, norm.running_mean[own], norm.running_var[own], norm.weight[own], norm.bias[own])  # type: ignore[index]
        x = end(x)
    return x


def test_the_network_is_its_equations_part_by_part() -> None:
    learner = mtan()
    net, x, z = learner.backbone, torch.rand(1, 2, 2, 8, 8), torch.tensor([[0.3, -0.7]])
    phi = learner.adapt(metabox.Examples(x=x[:, :0], y=torch.zeros(1, 0, SPEC.target.size)), z)
    got = learner.predict(phi, x)[0]
    image = x[0]
    u0 = block(net.down[0][0], image)
    p0 = block(net.down[0][1], u0)
    u1 = block(net.down[1][0], F.max_pool2d(p0, 2))
    p1 = block(net.down[1][1], u1)
    u2 = torch.cat([p1.repeat_interleave(2, 2).repeat_interleave(2, 3), p0], 1)
    p2 = block(net.up[0][1], block(net.up[0][0], u2))
    wanted = []
    for k, part in enumerate(PARTS):
        a0 = mask(net.down_masks[0], k, u0) * p0
        e0 = F.max_pool2d(block(net.down_carries[0], a0), 2)
        a1 = mask(net.down_masks[1], k, torch.cat([u1, e0], 1)) * p1
        e1 = block(net.up_carries[0], F.interpolate(a1, scale_factor=2, mode="bilinear", align_corners=True))
        a2 = mask(net.up_masks[0], k, torch.cat([u2, e1], 1)) * p2
        there = F.adaptive_avg_pool2d(a2, part.spatial or (1, 1))
        there = torch.cat([there, z[0][:, None, None].expand(2, -1, *there.shape[2:])], 1)
        wanted.append(learner.heads[k](there).flatten(1))
    torch.testing.assert_close(got, torch.cat(wanted, 1), rtol=1e-4, atol=1e-4)


def test_the_loss_of_a_part_reaches_what_is_shared_and_what_is_its_own() -> None:
    learner = mtan()
    x = torch.rand(1, 3, 2, 8, 8)
    phi = learner.adapt(metabox.Examples(x=x[:, :0], y=torch.zeros(1, 0, SPEC.target.size)), torch.zeros(1, 2))
    pieces = learner.predict(phi, x).split([part.n_params for part in PARTS], -1)
    pieces[1].square().sum().backward()
    parameters = dict(learner.named_parameters())
    assert {name for name in parameters if "mask" in name or "heads" in name} == set(task_parameters(learner, 0))
    for k in range(3):
        for name, own in task_parameters(learner, k).items():
            gradient = parameters[name].grad
            mine = own.storage_offset(), own.numel()
            here = torch.zeros(0) if gradient is None else gradient.flatten()[mine[0] : mine[0] + mine[1]]
            assert bool(here.any()) is (k == 1 and own.numel() > 0), (k, name)
    assert all(p.grad is not None and bool(p.grad.any()) for p in shared_parameters(learner).values())


def test_it_learns_scenes_a_little_with_a_loss_for_each_part(tmp_path: Path) -> None:
    tasks = Scenes(n_query=2)
    kinds = {"depth": Laplace(1), "normals": Direction(3)}
    target = Parts([replace(part, target=kinds.get(part.name, part.target)) for part in tasks.spec.target.parts])
    small = partial(MTAN, width=4, depth=2)
    outer = metabox.OuterLoop(steps=12, n_tasks=2, lr=1e-2, warmup=0, validate_every=12, n_validation=2, precision="32")
    torch.manual_seed(0)
    before = pixel_scores(small(tasks.spec.scored_by(target)), tasks, n_tasks=2)
    learner = metabox.run(tasks, small, outer, target=target, out=tmp_path)
    after = pixel_scores(learner, tasks, n_tasks=2)
    assert after["normals_angle"] < before["normals_angle"] - 5
    assert after["depth_absolute_error"] < 0.8 * before["depth_absolute_error"]
    scores = metabox.evaluate(learner, tasks, n_tasks=2)
    assert scores.mean("angle_normals") == pytest.approx(after["normals_angle"], rel=1e-3)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (TaskSpec((2, 5), Parts([Part("a", Reals(1))])), "expected images"),
        (TaskSpec((1, 4, 4), Parts([Part("a", Reals(1))])), "expected a depth from 0 to 2, got 3"),
        (TaskSpec((1, 8, 8), Parts([Part("a", Reals(1), (3,))])), "no or two spatial axes"),
        (TaskSpec((1, 8, 8), Reals(1)), "expected a target among Parts"),
    ],
)
def test_what_does_not_fit_is_named(spec: TaskSpec, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MTAN(spec, depth=3)


@pytest.mark.parametrize("check", sorted(set(CHECKS) - {"check_it_learns_a_small_family_of_tasks"}))
def test_it_conforms_on_images(check: str) -> None:
    CHECKS[check](partial(MTAN, width=4), SPEC)
