"""Backbones for series and other inputs with one axis of places, `[channels, length]`."""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from metabox.nn.backbones import Backbone
from metabox.nn.norm import Context, Norm, NormKind
from metabox.ranges import Count, Shape


class Conv1d(Backbone):
    """Four blocks of convolution, batch norm, ReLU and halving: `Conv4` along one axis.

    The features are the last map, flattened, or its mean along the axis. A series shorter than 16 is not halved to
    nothing: its last place is kept.

    Args:
        x_shape: `(channels, length)`.
        width: channels of every block.
        kernel_size: length of the kernels, an odd number.
        pool: "flatten" keeps places apart, "mean" makes the features insensitive to shifts.
        norm: whose statistics normalise a series (see `metabox.nn.norm.Norm`).

    Raises:
        ValueError: if the inputs are not `[channels, length]`, or the kernel's length is even.
    """

    def __init__(
        self,
        x_shape: Shape,
        width: Count = 64,
        kernel_size: Count = 3,
        pool: Literal["flatten", "mean"] = "flatten",
        norm: NormKind = "batch",
    ) -> None:
        super().__init__(x_shape)
        self.norm, self.pool = norm, pool
        channels, length = series_shape(self)
        _check_odd(kernel_size)
        self.blocks = nn.ModuleList()
        for i in range(4):
            conv = nn.Conv1d(channels if i == 0 else width, width, kernel_size, padding=kernel_size // 2, bias=False)
            self.blocks.append(nn.ModuleList([conv, Norm(width, norm, str(i))]))
            length = math.ceil(length / 2)
        self.halve = nn.MaxPool1d(2, ceil_mode=True)
        self.out_features = width * (length if pool == "flatten" else 1)

    def features(self, x: Tensor, context: Context) -> Tensor:
        for block in self.blocks:
            conv, norm = cast(nn.ModuleList, block)
            x = torch.relu(self.halve(_normalised(norm, conv(x), context)))
        return x.flatten(1) if self.pool == "flatten" else x.mean(2)


class DilatedConv1d(Backbone):
    """Residual blocks of dilated convolutions, then the mean along the axis (after Bai et al. 2018, TCN, non-causal).

    Block i has two convolutions whose kernels reach over 2^i places, with batch norm, and ReLU, so that `depth` blocks
    see 1 + 2 (kernel_size - 1) (2^depth - 1) places at once.

    Args:
        x_shape: `(channels, length)`.
        width: channels of every block.
        depth: number of blocks; 5 with kernels of 3 see 125 places.
        kernel_size: length of the kernels, an odd number.
        norm: whose statistics normalise a series (see `metabox.nn.norm.Norm`).

    Raises:
        ValueError: if the inputs are not `[channels, length]`, or the kernel's length is even.
    """

    def __init__(
        self, x_shape: Shape, width: Count = 64, depth: Count = 5, kernel_size: Count = 3, norm: NormKind = "batch"
    ) -> None:
        super().__init__(x_shape)
        self.norm = norm
        channels, _ = series_shape(self)
        _check_odd(kernel_size)
        self.stem = nn.Conv1d(channels, width, 1)
        self.blocks = nn.ModuleList()
        for i in range(depth):
            block = nn.ModuleList()
            for j in range(2):
                conv = nn.Conv1d(width, width, kernel_size, padding=kernel_size // 2 << i, dilation=1 << i, bias=False)
                block.extend([conv, Norm(width, norm, f"{i}.{j}")])
            self.blocks.append(block)
        self.out_features = width

    def features(self, x: Tensor, context: Context) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            first, norm_of_first, second, norm_of_second = cast(nn.ModuleList, block)
            h = torch.relu(_normalised(norm_of_first, first(x), context))
            x = torch.relu(x + _normalised(norm_of_second, second(h), context))
        return x.mean(2)


def series_shape(backbone: Backbone) -> tuple[int, int]:
    """(channels, length) of a backbone that takes series.

    Raises:
        ValueError: if its inputs are not series.
    """
    if len(backbone.x_shape) != 2:
        raise ValueError(
            f"expected series [channels, length] for {type(backbone).__name__}, got x_shape {backbone.x_shape}; "
            "use MLP, or Conv4 for images"
        )
    channels, length = backbone.x_shape
    return channels, length


def _check_odd(kernel_size: int) -> None:
    if kernel_size % 2 == 0:
        raise ValueError(f"expected kernel_size as an odd number, so that a series keeps its length, got {kernel_size}")


def _normalised(norm: nn.Module, x: Tensor, context: Context) -> Tensor:
    """A series is an image of one column to the layer."""
    out: Tensor = norm(x[..., None], context)
    return out[..., 0]
