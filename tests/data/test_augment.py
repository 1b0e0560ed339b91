"""Random affine maps: what they do is known where only one of their parts is at work."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.ndimage import affine_transform
from scipy.stats import kstest
from torch import Tensor

from metabox.data.augment import RandomAffine

STILL = {"rotation": 0.0, "scale": 0.0, "shear": 0.0, "shift": 0.0}


def noise(k: int = 8, channels: int = 2, height: int = 28, width: int = 28) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(256, (k, channels, height, width), generator=random, dtype=torch.uint8)


def draws(k: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(k, RandomAffine.n_draws, generator=torch.Generator().manual_seed(seed))


def normals(uniform: Tensor) -> Tensor:
    """The six normal draws of each image: angle, two scales, shear, two shifts."""
    u, v = uniform[:, :6].double(), uniform[:, 6:].double()
    return (-2 * (1 - u).log()).sqrt() * (2 * math.pi * v).cos()


@pytest.mark.parametrize("size", [(28, 28), (84, 84), (7, 12), (1, 1)])
def test_nothing_changes_where_every_standard_deviation_is_0(size: tuple[int, int]) -> None:
    images = noise(8, 3, *size)
    assert torch.equal(RandomAffine(**STILL)(images, draws()), images)


def test_nothing_changes_where_every_draw_is_0() -> None:
    assert torch.equal(RandomAffine()(noise(), torch.zeros(8, 12)), noise())


def test_the_same_draws_give_the_same_images_and_other_draws_others() -> None:
    augment, images = RandomAffine(), noise()
    once = augment(images, draws())
    assert torch.equal(augment(images, draws()), once)
    other = augment(images, draws(seed=1))
    assert all(not torch.equal(a, b) for a, b in zip(once, other, strict=True))
    assert torch.equal(images, noise())  # and what came in is as it was


def test_an_image_depends_on_its_own_draws_alone() -> None:
    augment, images, uniform = RandomAffine(), noise(), draws()
    whole = augment(images, uniform)
    for i in range(8):
        assert torch.equal(augment(images[i : i + 1], uniform[i : i + 1])[0], whole[i])


def test_every_channel_of_an_image_goes_the_same_way() -> None:
    grey = noise(channels=1)
    colour = RandomAffine()(grey.expand(-1, 3, -1, -1).contiguous(), draws())
    assert torch.equal(colour, RandomAffine()(grey, draws()).expand(-1, 3, -1, -1))


def test_images_stay_bytes_of_the_same_shape_even_at_the_ends_of_the_draws() -> None:
    largest = 1 - 2**-24  # of the float32 numbers that the sampler draws
    for uniform in (draws(), torch.full((8, 12), largest), torch.zeros(8, 12)):
        out = RandomAffine()(noise(), uniform)
        assert out.dtype == torch.uint8
        assert out.shape == noise().shape
    white = torch.full((8, 1, 28, 28), 255, dtype=torch.uint8)
    out = RandomAffine()(white, draws())
    assert out.max() == 255
    assert (out[:, :, 8:20, 8:20] == 255).all()


def test_an_image_is_the_affine_map_of_scipy() -> None:
    """Output pixel (y, x), counted from the centre, shows the input at A (x, y) + shift."""
    augment, images, uniform = RandomAffine(20, 0.2, 0.2, 0.1), noise(channels=1), draws()
    got = augment(images, uniform)
    for i, (angle, scale_x, scale_y, shear, shift_x, shift_y) in enumerate(normals(uniform).tolist()):
        a = math.radians(20 * angle)
        sx, sy = math.exp(0.2 * scale_x), math.exp(0.2 * scale_y)
        rotate = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64)
        matrix = rotate @ torch.diag(torch.tensor([sx, sy], dtype=torch.float64))
        matrix[0, 1] += 0.2 * shear
        matrix = matrix.flip(0, 1)  # scipy counts (y, x)
        centre = torch.tensor([13.5, 13.5], dtype=torch.float64)
        offset = centre + 28 * 0.1 * torch.tensor([shift_y, shift_x], dtype=torch.float64) - matrix @ centre
        wanted = affine_transform(
            images[i, 0].double().numpy(), matrix.numpy(), offset.numpy(), order=1, mode="grid-constant"
        )
        assert abs(got[i, 0].numpy() - wanted).max() < 0.51, f"image {i}"


def test_shifts_have_the_stated_standard_deviation() -> None:
    """A point of light tells where it went: normal, with 5 % of 101 pixels."""
    k = 400
    images = torch.zeros(k, 1, 101, 101, dtype=torch.uint8)
    images[:, :, 50, 50] = 255
    out = RandomAffine(**{**STILL, "shift": 0.05})(images, draws(k)).double()[:, 0]
    place = torch.arange(101, dtype=torch.float64) - 50
    for axis in (1, 2):
        moved = (out.sum(3 - axis) * place).sum(1) / out.sum((1, 2))
        assert kstest(moved.numpy(), "norm", args=(0, 5.05)).pvalue > 1e-3
