"""U-Net: features for every pixel."""

from __future__ import annotations

import itertools
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.nn.backbones import Backbone, image_shape
from metabox.nn.norm import Context, Norm, NormKind
from metabox.ranges import Count, Natural, Shape


class UNet(Backbone):
    """An encoder, a decoder, and skip connections between levels of equal size (Ronneberger et al. 2015).

    A level is one block of 3x3 convolution, normalisation and ReLU; each level down halves the image and doubles the
    channels. The paper has two blocks per level, unpadded convolutions and learned upsampling; here one block, padding,
    and nearest-pixel upsampling. The feature map has the size of the image.

    Args:
        x_shape: `(channels, height, width)`.
        width: channels of the first level and of the feature map.
        depth: levels below the first; the image is halved that many times.
        norm: whose statistics normalise an image (see `metabox.nn.norm.Norm`).

    Raises:
        ValueError: if the inputs are not images, or too small for so many levels.
    """

    def __init__(self, x_shape: Shape, width: Count = 16, depth: Natural = 3, norm: NormKind = "batch") -> None:
        super().__init__(x_shape)
        self.norm = norm
        channels, height, width_px = image_shape(self)
        if min(height, width_px) < 2**depth:
            raise ValueError(f"expected a depth from 0 to {int(math.log2(min(height, width_px)))}, got {depth}")
        sizes = [width * 2**level for level in range(depth + 1)]
        down = list(itertools.pairwise([channels, *sizes]))
        up = [(sizes[i + 1] + sizes[i], sizes[i]) for i in reversed(range(depth))]
        self.down, self.up = (
            nn.ModuleList(
                nn.ModuleList([nn.Conv2d(a, b, 3, padding=1, bias=False), Norm(b, norm, f"{name}{i}")])
                for i, (a, b) in enumerate(sizes)
            )
            for name, sizes in (("down", down), ("up", up))
        )
        self.map_shape = (width, height, width_px)
        self.out_features = math.prod(self.map_shape)
        self.to(memory_format=torch.channels_last)

    def features(self, x: Tensor, context: Context) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        bridges: list[Tensor] = []
        for block in self.down:
            x = _block(block, F.max_pool2d(x, 2) if bridges else x, context)
            bridges.append(x)
        bridges.pop()
        for block in self.up:
            bridge = bridges.pop()
            wide = F.interpolate(x, size=bridge.shape[-2:], mode="nearest")
            x = _block(block, torch.cat([wide, bridge], dim=1), context)
        return x.flatten(1)


def _block(block: nn.Module, x: Tensor, context: Context) -> Tensor:
    conv, norm = cast(nn.ModuleList, block)
    out: Tensor = torch.relu(norm(conv(x), context))
    return out
