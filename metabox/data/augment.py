"""Augmentation of training images, in batch on the device."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor


class Augmentation(ABC):
    """Changes images at random; used on the training split only."""

    n_draws: int
    """Random numbers that one image needs."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in sorted(vars(self).items()))})"

    @abstractmethod
    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """uint8 images `[K, channels, height, width]` and uniform draws in [0, 1) `[K, n_draws]` to images alike."""


class RandomAffine(Augmentation):
    """Rotates, scales, shears and shifts each image on its own; bilinear, zeros outside.

    The result is the same for the same arguments up to the rounding of the device's sine, exponential and
    interpolation: after it, episodes on a CPU and on CUDA may differ by a grey level.

    Args:
        rotation: standard deviation of the angle, degrees.
        scale: standard deviation of the logarithm of each axis' scale.
        shear: standard deviation of the shear (a tangent).
        shift: standard deviation of the shift of each axis, as a share of the image's size.
    """

    n_draws = 12  # two uniforms make one normal draw; six of those are needed

    def __init__(self, rotation: float = 7.0, scale: float = 0.1, shear: float = 0.12, shift: float = 0.04) -> None:
        if min(rotation, scale, shear, shift) < 0:
            raise ValueError(f"expected standard deviations of at least 0, got {(rotation, scale, shear, shift)}")
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
