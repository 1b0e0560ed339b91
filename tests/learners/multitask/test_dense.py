"""Targets at every pixel: the U-Net, the dense multi-task network against plain loops, and what people read of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metabox.episodes import Episodes, Examples
from metabox.learners.multitask.dense import DenseMultiTask
from metabox.multitask.pixel_scores import pixel_scores
from metabox.nn.backbones import Backbone
from metabox.nn.unet import UNet
from metabox.targets import Binary, Classes, Parts, Reals, TaskSpec
from metabox.targets.parts import Part
from metabox.tasks.multitask.scenes import Scenes
from metabox.tasks.sampler import EpisodeSampler

PARTS = (Part("kind", Classes(3), (4, 6)), Part("depth", Reals(1), (2, 3)), Part("tags", Binary(2)))
SPEC = TaskSpec((2, 4, 6), Parts(PARTS), descriptor_size=2)
N_PARAMS = 3 * 24 + 2 * 6 + 2


class Pixels(Backbone):
    """The image itself as a feature map."""

    def __init__(self, x_shape):
        super().__init__(x_shape)
        self.map_shape, self.out_features = x_shape, math.prod(x_shape)

    def features(self, x, context):
        return x.flatten(1)


def perceptron(layers, v):
    first, _, last = layers
    hidden = F.gelu(first.weight[:, :, 0, 0] @ v + first.bias)
    return last.weight[:, :, 0, 0] @ hidden + last.bias


def examples(n, seed=0):
    random = torch.Generator().manual_seed(seed)
    kind = torch.randint(3, (1, n, 24), generator=random).float()
    depth, tags = torch.randn(1, n, 6, generator=random), torch.randint(2, (1, n, 2), generator=random).float()
    y = torch.cat([kind, depth, tags], -1)
    y[torch.rand(y.shape, generator=random) < 0.2] = torch.nan
    return Examples(x=torch.rand(1, n, 2, 4, 6, generator=random), y=y)


def test_the_network_is_its_equations_pixel_by_pixel():
    torch.manual_seed(0)
    learner = DenseMultiTask(SPEC, backbone=Pixels, width=5).eval()
    support, query, z = examples(3), examples(2, seed=1), torch.tensor([[0.5, -1.0]])
    code = []
    for x, y in zip(support.x[0], support.y[0], strict=True):
        for i in range(4):
            for j in range(6):
                kind, depth, tags = y[6 * i + j], y[24 + 3 * (i // 2) + j // 2], y[30:]
                labels = [float(kind == c) for c in range(3)] + [float(not kind.isnan())]
                labels += [float(depth.nan_to_num(0)), float(not depth.isnan())]
                labels += [*tags.nan_to_num(0).tolist(), *(~tags.isnan()).float().tolist()]
                code.append(perceptron(learner.encoder, torch.cat([x[:, i, j], torch.tensor(labels)])))
    r = torch.cat([torch.stack(code).mean(0), z[0]])
    wanted = []
    for x in query.x[0]:
        pixels = [perceptron(learner.heads[0], torch.cat([x[:, i, j], r])) for i in range(4) for j in range(6)]
        blocks = [x[:, i : i + 2, j : j + 2].mean((1, 2)) for i in (0, 2) for j in (0, 2, 4)]
        areas = [perceptron(learner.heads[1], torch.cat([block, r])) for block in blocks]
        whole = perceptron(learner.heads[2], torch.cat([x.mean((1, 2)), r]))
        wanted.append(torch.cat([torch.stack(pixels, 1).flatten(), torch.stack(areas, 1).flatten(), whole]))
    got = learner.predict(learner.adapt(support, z), query.x)
    torch.testing.assert_close(got[0], torch.stack(wanted), rtol=1e-4, atol=1e-5)


def test_vectors_have_a_map_of_one_pixel():
    spec = TaskSpec((4,), Parts(PARTS))
    learner = DenseMultiTask(spec)
    support = examples(3)
    phi = learner.adapt(Examples(x=torch.randn(1, 3, 4), y=support.y))
    assert learner.predict(phi, torch.randn(1, 5, 4)).shape == (1, 5, N_PARAMS)


def test_wrong_sizes_and_axes_are_named():
    line = TaskSpec((2, 4, 6), Parts((Part("line", Reals(1), (4,)),)))
    with pytest.raises(ValueError, match="line"):
        DenseMultiTask(line)


def test_a_u_net_of_one_level_is_its_equations():
    torch.manual_seed(0)
    net = UNet((2, 5, 7), width=3, depth=1).eval()
    x = torch.rand(4, 2, 5, 7)
    conv = [block[0].weight for block in (*net.down, *net.up)]
    scale = (1 + 1e-5) ** -0.5  # batch norm with statistics of 0 and 1
    top = F.relu(F.conv2d(x, conv[0], padding=1) * scale)
    low = F.relu(F.conv2d(F.max_pool2d(top, 2), conv[1], padding=1) * scale)  # 2 x 3
    wide = low[:, :, [0, 0, 0, 1, 1]][:, :, :, [0, 0, 0, 1, 1, 2, 2]]
    wanted = F.relu(F.conv2d(torch.cat([wide, top], 1), conv[2], padding=1) * scale)
    torch.testing.assert_close(net(x).view(4, 3, 5, 7), wanted)


@pytest.mark.parametrize(("shape", "depth"), [((3, 16, 16), 4), ((1, 37, 20), 3), ((1, 2, 2), 0)])
def test_a_u_nets_map_has_the_size_of_the_image(shape, depth):
    net = UNet(shape, width=4, depth=depth)
    assert net.map_shape == (4, *shape[1:])
    assert net(torch.rand(2, 3, *shape)).shape == (2, 3, net.out_features)


@pytest.mark.parametrize("depth", [5, 9])
def test_a_u_net_deeper_than_the_image_is_refused(depth):
    with pytest.raises(ValueError, match="depth from 0 to 4"):
        UNet((1, 16, 16), depth=depth)


class Fixed(EpisodeSampler):
    """One row of two given examples."""

    spec = TaskSpec(
        (1, 2, 2),
        Parts((Part("kind", Classes(3), (2, 2)), Part("depth", Reals(1), (2, 2)), Part("normals", Reals(3), (2, 2)))),
    )

    def __init__(self, y):
        self.y = y

    def sample(self, place, device="cpu"):
        x = torch.zeros(place.n_tasks, 2, 1, 2, 2)
        y = self.y[None].expand(place.n_tasks, -1, -1)
        return Episodes(support=Examples(x=x[:, :0], y=y[:, :0]), query=Examples(x=x, y=y))


class Constant(DenseMultiTask):
    """Says class 0, depth 2 and a normal along the first axis, everywhere."""

    def answer(self, phi, x):
        said = [5.0, 0, 0, 2, 0, 1, 0, 0, 0, 0, 0]
        return torch.tensor(said).repeat_interleave(4).expand(*x.shape[:2], -1)


def test_scores_of_pixels_are_those_counted_by_hand():
    nan = torch.nan
    kind = [[0.0, 0, 1, nan], [0, 1, 1, 0]]
    depth = [[1.0, 2, 4, nan], [2, 2, 2, 2]]
    normals = np.zeros((2, 3, 4))
    normals[:, 0] = 1  # as said
    normals[0, :, 0], normals[0, :, 1], normals[0, :, 2] = (0, 1, 0), (math.sqrt(0.5), math.sqrt(0.5), 0), nan
    y = torch.cat([torch.tensor(kind), torch.tensor(depth), torch.tensor(normals).float().flatten(1)], 1)
    scores = pixel_scores(Constant(Fixed.spec, backbone=Pixels), Fixed(y), n_tasks=3, batch=2)
    assert scores == pytest.approx(
        {
            "kind_accuracy": 4 / 7,
            "kind_miou": (4 / 7 + 0) / 2,  # class 2 is nowhere, and does not count
            "depth_absolute_error": (1 + 0 + 2 + 4 * 0) / 7,
            "depth_relative_error": (1 + 0 + 2 / 4) / 7,
            "normals_angle": (90 + 45) / 7,
            "normals_within_11.25": 5 / 7,
            "normals_within_22.5": 5 / 7,
            "normals_within_30": 5 / 7,
        },
        abs=1e-3,
    )


def test_targets_without_pixels_are_refused():
    tasks = Scenes()
    tasks.spec = TaskSpec((1, 2, 2), Parts((Part("a", Reals(1)),)))
    with pytest.raises(ValueError, match="spatial axes"):
        pixel_scores(Constant(Fixed.spec, backbone=Pixels), tasks)
