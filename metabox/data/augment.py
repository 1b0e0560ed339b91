"""Augmentation of training images, in batches on the device."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.config import Configured
from metabox.episodes import moved
from metabox.ranges import Between, Natural, NotNegative, Positive, Share, Within
from metabox.seeding import Draws


class Augmentation(Configured, ABC):
    """Changes images at random; used on the training split only."""

    @property
    @abstractmethod
    def n_draws(self) -> int:
        """How many random numbers one image needs."""

    @abstractmethod
    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Changed uint8 images `[K, channels, height, width]`, by uniform draws in [0, 1) `[K, n_draws]`."""


def augmented(augment: Augmentation, images: Tensor, draws: Draws) -> Tensor:
    """Images `[T * K, ...]` of the tasks of the draws, each changed by its own draws."""
    words = draws.words("uniform", len(images) // len(draws.tasks), augment.n_draws)
    uniform = torch.from_numpy((words >> 8).astype(np.float32) / 2**24).flatten(0, 1)
    return augment(images, moved(uniform, images.device))


class RandomAffine(Augmentation):
    """Rotates, scales, shears and shifts each image independently; bilinear, zeros outside.

    Results depend on the device's rounding of sine, exponential and interpolation: episodes on a CPU and on CUDA may
    differ by one grey level.

    Args:
        rotation: standard deviation of the angle, degrees.
        scale: standard deviation of the logarithm of each axis's scale.
        shear: standard deviation of the shear (a tangent).
        shift: standard deviation of the shift of each axis, as a share of the image's size.
    """

    n_draws = 12  # two uniform draws make one normal draw, and six of those are needed

    def __init__(
        self,
        rotation: NotNegative = 7.0,
        scale: NotNegative = 0.1,
        shear: NotNegative = 0.12,
        shift: NotNegative = 0.04,
    ) -> None:
        self.rotation, self.scale, self.shear, self.shift = rotation, scale, shear, shift

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        # Box-Muller: normal draws from uniform ones
        u, v = draws.chunk(2, dim=1)
        normal = torch.sqrt(-2 * torch.log1p(-u)) * torch.cos(2 * torch.pi * v)
        angle = normal[:, 0] * (self.rotation * torch.pi / 180)
        scale_x, scale_y = torch.exp(normal[:, 1:3] * self.scale).unbind(1)
        cos, sin = angle.cos(), angle.sin()
        shift_x, shift_y = (normal[:, 4:6] * (2 * self.shift)).unbind(1)  # affine_grid counts half images
        rows = [
            cos * scale_x,
            normal[:, 3] * self.shear - sin * scale_y,
            shift_x,
            sin * scale_x,
            cos * scale_y,
            shift_y,
        ]
        grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
        return F.grid_sample(images.float(), grid, align_corners=False).round_().to(torch.uint8)


class Chain(Augmentation):
    """Several augmentations, one after the other.

    Args:
        steps: the augmentations, in order.
    """

    def __init__(self, steps: Sequence[Augmentation]) -> None:
        self.steps = list(steps)

    @property
    def n_draws(self) -> int:
        return sum(step.n_draws for step in self.steps)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        for step, own in zip(self.steps, draws.split([step.n_draws for step in self.steps], dim=1), strict=True):
            images = step(images, own)
        return images


class RandomFlip(Augmentation):
    """Mirrors an image left to right.

    Args:
        p: the share of images that are mirrored.
    """

    n_draws = 1

    def __init__(self, p: Share = 0.5) -> None:
        self.p = p

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        return torch.where(draws[:, :1, None, None] < self.p, images.flip(-1), images)


class RandomCrop(Augmentation):
    """Adds a black border and cuts out a window of the old size: a shift by whole pixels.

    Args:
        padding: width of the border in pixels.
    """

    n_draws = 2

    def __init__(self, padding: Natural = 4) -> None:
        self.padding = padding

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        height, width = images.shape[2:]
        padded = F.pad(images, [self.padding] * 4)
        top, left = _whole(draws, torch.full_like(draws, 2 * self.padding + 1)).unbind(1)
        return _columns(_rows(padded, top[:, None] + _range(height, top)), left[:, None] + _range(width, left))


class RandomResizedCrop(Augmentation):
    """Cuts out a random rectangle and stretches it to the size of the image, bilinearly (Szegedy et al. 2015).

    The rectangle is drawn as in torchvision: an area and an aspect ratio are drawn ten times, and the first rectangle
    that fits is taken, or else the largest central one with an allowed ratio. Images are cropped as they are stored.
    Arithmetic is in whole numbers, so that devices can differ only if their exponentials round a side differently; the
    result differs from torchvision, which rounds once for each axis, by one grey level at most.

    Args:
        scale: bounds of the area, as shares of the image's.
        ratio: bounds of width to height.
    """

    n_draws = 22  # ten areas, ten ratios, and the position

    def __init__(
        self,
        scale: Between[Annotated[float, Within(above=0, most=1)]] = (0.08, 1.0),
        ratio: Between[Positive] = (3 / 4, 4 / 3),
    ) -> None:
        self.scale, self.ratio = scale, ratio

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        top, left, high, wide = self.boxes(draws, *images.shape[2:])
        images = _stretch(images.int(), 2, top, high)
        images = _stretch(images, 3, left, wide)
        return ((images + (1 << 2 * BITS - 1)) >> 2 * BITS).to(torch.uint8)

    def boxes(self, draws: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Top, left, height and width of each image's rectangle, int64 `[K]` each."""
        area, aspect = draws[:, :10], draws[:, 10:20]
        area = (self.scale[0] + (self.scale[1] - self.scale[0]) * area) * (height * width)
        low, high = (math.log(bound) for bound in self.ratio)
        aspect = torch.exp(low + (high - low) * aspect)
        w, h = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        first = fits.int().argmax(1, keepdim=True)  # the first of equals
        middle_w = min(width, round(height * self.ratio[1]))
        middle_h = min(height, round(width / self.ratio[0]))
        none = ~fits.any(1)
        w = torch.where(none, middle_w, w.gather(1, first)[:, 0])
        h = torch.where(none, middle_h, h.gather(1, first)[:, 0])
        top = torch.where(none, (height - middle_h) // 2, _whole(draws[:, 20], height - h + 1))
        left = torch.where(none, (width - middle_w) // 2, _whole(draws[:, 21], width - w + 1))
        return top, left, h, w


class ColorJitter(Augmentation):
    """Changes brightness, contrast and saturation, in this order, each by a factor drawn from [1 - s, 1 + s].

    The order is that of Chen et al. 2019 ("A closer look at few-shot classification", whose code jitters by 0.4);
    torchvision's ColorJitter draws the order, and can also shift hues. The steps themselves are torchvision's, bit for
    bit. Grey images have no saturation to change.

    Args:
        brightness: s for brightness.
        contrast: s for contrast.
        saturation: s for saturation.
    """

    n_draws = 3

    def __init__(
        self, brightness: NotNegative = 0.4, contrast: NotNegative = 0.4, saturation: NotNegative = 0.4
    ) -> None:
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        strengths = (self.brightness, self.contrast, self.saturation)
        by = [
            (max(0.0, 1 - s) + (1 + s - max(0.0, 1 - s)) * draw)[:, None, None, None]
            for s, draw in zip(strengths, draws.unbind(1), strict=True)
        ]
        images = _blend(images, torch.zeros_like(images), by[0])
        # A sum of whole numbers does not depend on its order.
        mean = _grey(images).sum((1, 2, 3), keepdim=True).float() / math.prod(images.shape[2:])
        images = _blend(images, mean, by[1])
        return _blend(images, _grey(images), by[2]) if images.shape[1] == 3 else images


BITS = 11  # of a bilinear weight; a byte times two of them still fits int32


def _stretch(images: Tensor, dim: int, start: Tensor, length: Tensor) -> Tensor:
    """The pixels `start ... start + length` of an axis stretched over the whole axis, times 2 ** BITS."""
    n = images.shape[dim]
    # Where the centre of each new pixel lies in the old ones, in units of 1 / (2 n) of a pixel.
    place = (2 * _range(n, start) + 1) * length[:, None] - n
    place = place.clamp(min=0).minimum(2 * n * (length[:, None] - 1))
    low = place.div(2 * n, rounding_mode="floor")
    weight = ((place - low * 2 * n << BITS) + n).div(2 * n, rounding_mode="floor").int()
    high = (low + 1).minimum(length[:, None] - 1)
    pick = _rows if dim == 2 else _columns
    weight = weight[:, None, :, None] if dim == 2 else weight[:, None, None, :]
    below, above = (pick(images, start[:, None] + place) for place in (low, high))
    return below * ((1 << BITS) - weight) + above * weight


def _rows(images: Tensor, which: Tensor) -> Tensor:
    """Row `which[k, i]` of image k as its row i: `[K, channels, height, width], [K, I] -> [K, channels, I, width]`."""
    return images.gather(2, which[:, None, :, None].expand(-1, images.shape[1], -1, images.shape[3]))


def _columns(images: Tensor, which: Tensor) -> Tensor:
    return images.gather(3, which[:, None, None, :].expand(-1, images.shape[1], images.shape[2], -1))


def _range(n: int, like: Tensor) -> Tensor:
    return torch.arange(n, device=like.device)


def _whole(draws: Tensor, n: Tensor) -> Tensor:
    """Uniform whole numbers in 0 ... n - 1 from uniform draws in [0, 1)."""
    return (draws * n).long().minimum(n.long() - 1)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images
    red, green, blue = images.float().unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(torch.uint8)[:, None]


def _blend(images: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return (share * images + (1 - share) * other).clamp(0, 255).to(torch.uint8)
