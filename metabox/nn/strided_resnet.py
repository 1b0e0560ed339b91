"""A residual network for small images and a CPU: channels grow as maps shrink."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from metabox.nn.backbones import Backbone, image_shape
from metabox.nn.norm import Context, Norm, NormKind
from metabox.ranges import BelowOne, Count, Natural, Shape


class StridedResNet(Backbone):
    """Stages that halve the image by the stride of a 3x3 convolution; in each, residual blocks (He et al. 2016) follow.

    A block is the paper's basic one: 3x3 convolution, norm, ReLU, 3x3 convolution, norm, plus its input, ReLU. On a CPU
    normalisation and ReLU take longest at full resolution, and gradients of wide convolutions on the smallest maps, so
    by default the first and the last stage have no block.

    Args:
        x_shape: `(channels, height, width)`.
        widths: channels of the stages.
        blocks: residual blocks of the stages, one number for each.
        skip_rate: stochastic depth (Huang et al. 2016): in training the share of images for which a block is left out;
            it rises linearly from the first block to this, at the last.
        drop_rate: of dropout on the flattened last map.
        norm: whose statistics normalise an image (see `metabox.nn.norm.Norm`).

    Raises:
        ValueError: if inputs are not images, or there are not as many `blocks` as `widths`.
    """

    def __init__(
        self,
        x_shape: Shape,
        widths: tuple[Count, ...] = (32, 64, 128, 256),
        blocks: tuple[Natural, ...] = (0, 1, 1, 0),
        skip_rate: BelowOne = 0.0,
        drop_rate: BelowOne = 0.0,
        norm: NormKind = "batch",
    ) -> None:
        super().__init__(x_shape)
        if not widths or len(blocks) != len(widths):
            raise ValueError(
                f"expected as many blocks as widths, one of each for a stage, got widths {tuple(widths)} and blocks "
                f"{tuple(blocks)}"
            )
        self.norm = norm
        channels, height, width_px = image_shape(self)
        self.stages = nn.ModuleList()
        made, total = 0, sum(blocks)
        for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            conv = nn.Conv2d(channels, width, 3, 2, padding=1, bias=False)
            rates = [skip_rate * (made + j + 1) / total for j in range(count)]
            residual = [_Block(width, norm, f"{i}.{j}", rate) for j, rate in enumerate(rates)]
            self.stages.append(nn.ModuleList([conv, Norm(width, norm, str(i)), *residual]))
            channels, height, width_px, made = width, (height + 1) // 2, (width_px + 1) // 2, made + count
        self.drop = nn.Dropout(drop_rate)
        self.map_shape = (channels, height, width_px)
        self.out_features = channels * height * width_px
        self.to(memory_format=torch.channels_last)

    def features(self, x: Tensor, context: Context) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            conv, norm, *blocks = cast(nn.ModuleList, stage)
            x = torch.relu(norm(conv(x), context))
            for block in blocks:
                x = block(x, context)
        dropped: Tensor = self.drop(x.flatten(1))
        return dropped


class _Block(nn.Module):
    def __init__(self, width: int, norm: NormKind, name: str, skip_rate: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(Norm(width, norm, f"{name}.{i}") for i in range(2))
        self.skip_rate = skip_rate

    def forward(self, x: Tensor, context: Context) -> Tensor:
        h = torch.relu(self.norms[0](self.convs[0](x), context))
        h = self.norms[1](self.convs[1](h), context)
        if self.training and self.skip_rate:
            stays = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.skip_rate
            h = h * (stays.to(h.dtype) / (1 - self.skip_rate))
        return torch.relu(x + h)
