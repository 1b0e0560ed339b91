"""Crops, flips and colours in batch: torchvision's functions on each image by itself are the oracle."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision.transforms.functional as V
from scipy.stats import kstest
from torch import Tensor

from metabox.data.augment import (
    Augmentation,
    Chain,
    ColorJitter,
    RandomAffine,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
)

LARGEST = 1 - 2**-24  # of the draws that a sampler makes
ALL = [
    RandomFlip(),
    RandomCrop(),
    RandomResizedCrop(),
    ColorJitter(),
    Chain([RandomResizedCrop(), RandomAffine(), ColorJitter(), RandomFlip()]),
]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def noise(k: int = 16, channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(256, (k, channels, height, width), generator=random, dtype=torch.uint8)


def draws(augment: Augmentation, k: int = 16, seed: int = 0) -> Tensor:
    words = torch.randint(2**24, (k, augment.n_draws), generator=torch.Generator().manual_seed(seed))
    return words.float() / 2**24


# What holds for each


@pytest.mark.parametrize("augment", ALL, ids=repr)
def test_an_image_depends_on_its_own_draws_alone_and_inputs_stay_as_they_are(augment):
    images, uniform = noise(), draws(augment)
    whole = augment(images, uniform)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    assert torch.equal(images, noise())
    assert not torch.equal(whole, images)
    for i in range(16):
        assert torch.equal(augment(images[i : i + 1], uniform[i : i + 1])[0], whole[i])


@pytest.mark.parametrize("augment", ALL, ids=repr)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 84, 60), (3, 1, 1), (1, 2, 5)])
def test_all_sizes_are_taken_at_the_ends_of_the_draws_too(augment, shape):
    channels, height, width = shape
    for uniform in (torch.zeros(4, augment.n_draws), torch.full((4, augment.n_draws), LARGEST), draws(augment, 4)):
        assert augment(noise(4, *shape), uniform).shape == (4, channels, height, width)


@pytest.mark.parametrize("augment", [a for a in ALL if not isinstance(a, Chain)], ids=repr)
@pytest.mark.cuda
def test_the_bits_are_the_same_on_a_gpu(augment):
    images, uniform = noise(512), draws(augment, 512)
    assert torch.equal(augment(images.cuda(), uniform.cuda()).cpu(), augment(images, uniform))


# Oracles


def test_a_flip_is_torchvisions_where_the_draw_is_below_p():
    augment, images = RandomFlip(0.3), noise(1000, 1, 2, 3)
    uniform = draws(augment, 1000)
    got = augment(images, uniform)
    for image, u, out in zip(images, uniform, got, strict=True):
        assert torch.equal(out, V.hflip(image) if u < 0.3 else image)
    assert torch.equal(RandomFlip(0.0)(images, torch.zeros(1000, 1)), images)


def test_a_crop_is_a_window_of_the_padded_image_and_every_place_is_as_likely():
    augment, images = RandomCrop(2), noise(2000, 1, 6, 5)
    uniform = draws(augment, 2000)
    got, places = augment(images, uniform), torch.zeros(5, 5)
    for image, (u, v), out in zip(images, uniform.tolist(), got, strict=True):
        top, left = math.floor(u * 5), math.floor(v * 5)
        assert torch.equal(out, V.crop(V.pad(image, [2]), top, left, 6, 5))
        places[top, left] += 1
    assert (places - 80).abs().max() < 5 * 80**0.5


def torchvisions_box(uniform: list[float], height: int, width: int, scale, ratio) -> tuple[int, int, int, int]:
    """`RandomResizedCrop.get_params`, with the random numbers given."""
    for k in range(10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[k])
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * uniform[10 + k])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return math.floor(uniform[20] * (height - h + 1)), math.floor(uniform[21] * (width - w + 1)), h, w
    if width / height < min(ratio):
        w, h = width, round(width / min(ratio))
    elif width / height > max(ratio):
        w, h = round(height * max(ratio)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (32, 32, (0.08, 1.0), (3 / 4, 4 / 3)),
        (84, 84, (0.3, 0.6), (1.0, 1.0)),
        (20, 60, (0.9, 1.0), (3 / 4, 4 / 3)),  # seldom fits: the middle
        (60, 20, (0.9, 1.0), (3 / 4, 4 / 3)),
        (33, 32, (0.99, 1.0), (0.5, 2.0)),
    ],
)
def test_a_resized_crop_is_torchvisions(height, width, scale, ratio):
    augment, images = RandomResizedCrop(scale, ratio), noise(200, 3, height, width)
    uniform = draws(augment, 200)
    got = augment(images, uniform)
    for i, (image, u, out) in enumerate(zip(images, uniform.tolist(), got, strict=True)):
        top, left, h, w = torchvisions_box(u, height, width, scale, ratio)
        assert [int(part[i]) for part in augment.boxes(uniform, height, width)] == [top, left, h, w]
        wanted = V.resized_crop(image.double(), top, left, h, w, [height, width], antialias=False)
        assert (out - wanted).abs().max() <= 0.5 + 2 * 255 / 2**12, f"image {i}"
        assert (out.int() - V.resized_crop(image, top, left, h, w, [height, width]).int()).abs().max() <= 1


def test_a_resized_crop_of_everything_is_the_image():
    assert torch.equal(RandomResizedCrop((1.0, 1.0), (1.0, 1.0))(noise(), draws(RandomResizedCrop())), noise())


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_torchvisions_bit_for_bit(channels):
    augment, images = ColorJitter(0.4, 0.6, 1.5), noise(64, channels, 30, 29)
    uniform = draws(augment, 64)
    got = augment(images, uniform)
    for image, u, out in zip(images, uniform, got, strict=True):
        brightness, contrast = (1 - s + ((1 + s) - (1 - s)) * u[k] for k, s in enumerate((0.4, 0.6)))
        saturation = 2.5 * u[2]  # 1 - 1.5 is cut off at 0
        wanted = V.adjust_contrast(V.adjust_brightness(image, brightness.item()), contrast.item())
        wanted = V.adjust_saturation(wanted, saturation.item()) if channels == 3 else wanted
        assert torch.equal(out, wanted)


def test_factors_of_colour_are_uniform_around_1():
    """Brightness alone, on a grey of 100, tells its factor."""
    augment = ColorJitter(0.4, 0, 0)
    out = augment(torch.full((4000, 1, 1, 1), 100, dtype=torch.uint8), draws(augment, 4000)).flatten().double()
    assert kstest((out + 0.5) / 100, "uniform", args=(0.6, 0.8)).pvalue > 1e-3


def test_no_strength_no_change():
    assert torch.equal(ColorJitter(0, 0, 0)(noise(), draws(ColorJitter())), noise())


def test_a_chain_is_its_steps_with_draws_of_their_own():
    steps = [RandomResizedCrop(), ColorJitter(), RandomFlip()]
    chain, images = Chain(steps), noise()
    uniform = draws(chain)
    assert chain.n_draws == 22 + 3 + 1
    wanted = steps[0](images, uniform[:, :22])
    wanted = steps[2](steps[1](wanted, uniform[:, 22:25]), uniform[:, 25:])
    assert torch.equal(chain(images, uniform), wanted)
    assert torch.equal(Chain([])(images, uniform[:, :0]), images)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomFlip(1.5), "p as a number from 0 to 1"),
        (lambda: RandomCrop(-1), "padding as a whole number of at least 0"),
        (lambda: RandomResizedCrop(scale=(0.5, 0.2)), "scale as a range"),
        (lambda: RandomResizedCrop(scale=(0.5, 1.2)), "scale as a range"),
        (lambda: RandomResizedCrop(ratio=(0.0, 1.0)), "ratio as"),
        (lambda: ColorJitter(contrast=-1), "contrast as a number of at least 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
