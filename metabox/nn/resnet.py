"""The residual backbones of the few-shot literature, and DropBlock, which regularises them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.checks import checked
from metabox.nn.backbones import Backbone, image_shape
from metabox.nn.norm import Context, Norm, NormKind
from metabox.ranges import BelowOne, Count, Natural, Shape

LEAK = 0.1


class DropBlock(nn.Module):
    """Zeroes square blocks of a feature map in training (Ghiasi et al. 2018, algorithm 1 and equation 1).

    Blocks lie wholly inside the map, separately in each channel, and may overlap. One begins at each position where it
    fits with probability gamma = rate / size^2 * (h w) / ((h - size + 1) (w - size + 1)). The rest is divided by its
    share, over all images together.

    Args:
        rate: share of activations to drop; fewer are dropped if blocks overlap.
        size: side of a block, reduced to that of the map if the map is smaller.
        ramp: the rate rises linearly from zero over this many calls in training.

    Raises:
        ValueError: if an option is out of range.
    """

    calls: Tensor

    @checked
    def __init__(self, rate: BelowOne = 0.1, size: Count = 5, ramp: Natural = 0) -> None:
        super().__init__()
        self.rate, self.size, self.ramp = rate, size, ramp
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, channels, h, w]`."""
        if not self.training or not self.rate:
            return x
        self.calls += 1
        h, w = x.shape[2:]
        size = min(self.size, h, w)
        room = h - size + 1, w - size + 1
        # A tensor, to avoid waiting for the device.
        gamma = (self.calls / max(1, self.ramp)).clamp(max=1) * (self.rate / size**2 * h * w / math.prod(room))
        begins = (torch.rand(*x.shape[:2], *room, device=x.device) < gamma).float()
        left = 1 - F.max_pool2d(F.pad(begins, [size - 1] * 4), size, stride=1)
        return x * (left * (left.numel() / left.sum().clamp(min=1))).to(x.dtype)

    def extra_repr(self) -> str:
        return f"rate={self.rate}, size={self.size}, ramp={self.ramp}"


class ResNet12(Backbone):
    """ResNet-12 of MetaOptNet (Lee et al. 2019) and RFS (Tian et al. 2020).

    Four blocks: three 3x3 convolutions, each batch-normalised and all but the third followed by LeakyReLU(0.1); plus a
    batch-normalised 1x1 convolution of the block's input; LeakyReLU(0.1); 2x2 max-pooling; then dropout in the first
    two blocks, DropBlock in the others. Everything is as in the authors' code (github.com/kjunelee/MetaOptNet and
    github.com/WangYueFt/rfs), which pools in every block; the RFS paper's text leaves out the last pooling.

    Deviations: the ramp of DropBlock's rate counts calls in training only, while that code counts those in evaluation
    too. A block of DropBlock that is larger than the map is reduced to its size, where that code fails.

    Args:
        x_shape: `(channels, height, width)`.
        widths: channels of the four blocks; (64, 128, 256, 512) is the smaller ResNet-12 of other papers.
        average: average the last feature map over its positions, as RFS does; else keep the map, as MetaOptNet does.
        drop_rate: of dropout and DropBlock.
        drop_size: side of a dropped block, 5 for 84x84 pixels, 2 for the 32x32 pixels of CIFAR-FS.
        drop_ramp: calls in training over which DropBlock's rate rises to `drop_rate` (a step makes two, for support
            and queries).
        norm: whose statistics normalise an image (see `metabox.nn.norm.Norm`).

    Raises:
        ValueError: if inputs are not images of at least 16x16, or an option is out of range.
    """

    def __init__(
        self,
        x_shape: Shape,
        widths: tuple[Count, Count, Count, Count] = (64, 160, 320, 640),
        average: bool = True,
        drop_rate: BelowOne = 0.1,
        drop_size: Count = 5,
        drop_ramp: Natural = 40_000,
        norm: NormKind = "batch",
    ) -> None:
        super().__init__(x_shape)
        channels, height, width = image_shape(self)
        if min(height, width) < 16:
            raise ValueError(f"expected images of at least 16x16 for four poolings, got {x_shape}")
        self.norm, self.average = norm, average
        drops: list[nn.Module] = [nn.Dropout(drop_rate), nn.Dropout(drop_rate)]
        drops += [DropBlock(drop_rate, drop_size, drop_ramp) for _ in range(2)]
        self.blocks = nn.ModuleList(
            _ResNet12Block(inputs, outputs, norm, str(i), drop)
            for i, (inputs, outputs, drop) in enumerate(zip((channels, *widths[:3]), widths, drops, strict=True))
        )
        self.map_shape = None if average else (widths[3], height // 16, width // 16)
        self.out_features = widths[3] if average else widths[3] * (height // 16) * (width // 16)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")
        self.to(memory_format=torch.channels_last)

    def features(self, x: Tensor, context: Context) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x, context)
        return x.mean((2, 3)) if self.average else x.flatten(1)


class _ResNet12Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, norm: NormKind, name: str, drop: nn.Module) -> None:
        super().__init__()
        widths = (inputs, outputs, outputs)
        self.convs = nn.ModuleList(nn.Conv2d(width, outputs, 3, padding=1, bias=False) for width in widths)
        self.norms = nn.ModuleList(Norm(outputs, norm, f"{name}.{i}") for i in range(3))
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.shortcut_norm = Norm(outputs, norm, f"{name}.shortcut")
        self.drop = drop

    def forward(self, x: Tensor, context: Context) -> Tensor:
        out = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            out = norm(conv(out), context)
            if i < 2:
                out = F.leaky_relu(out, LEAK)
        out = F.leaky_relu(out + self.shortcut_norm(self.shortcut(x), context), LEAK)
        pooled: Tensor = self.drop(F.max_pool2d(out, 2))
        return pooled


class SNAILEmbedding(Backbone):
    """The 14-layer residual network of SNAIL for mini-ImageNet (Mishra et al. 2018, appendix).

    Four blocks: three times a 3x3 convolution, batch norm and LeakyReLU(0.1); plus a 1x1 convolution of the block's
    input; 2x2 max-pooling; dropout. Then a 1x1 convolution with 2,048 filters, the mean over the 6x6 positions left of
    84x84 pixels, ReLU, dropout, and a 1x1 convolution with 384 filters.

    Deviations: the mean is taken before the convolution with 2,048 filters, which gives the same numbers for less
    arithmetic, and over any number of positions. The paper's "dropout 0.9" is read as the probability of keeping an
    activation, as in the library of that time.

    Args:
        x_shape: `(channels, height, width)`.
        widths: channels of the four blocks.
        drop_rate: share of activations that dropout drops.
        norm: whose statistics normalise an image (see `metabox.nn.norm.Norm`).

    Raises:
        ValueError: if the inputs are not images.
    """

    def __init__(
        self,
        x_shape: Shape,
        widths: tuple[Count, Count, Count, Count] = (64, 96, 128, 256),
        drop_rate: BelowOne = 0.1,
        norm: NormKind = "batch",
    ) -> None:
        super().__init__(x_shape)
        channels, _, _ = image_shape(self)
        self.norm, self.out_features = norm, 384
        self.blocks = nn.ModuleList(
            _SNAILBlock(inputs, outputs, norm, str(i), drop_rate)
            for i, (inputs, outputs) in enumerate(zip((channels, *widths[:3]), widths, strict=True))
        )
        self.readout = nn.Sequential(
            nn.Linear(widths[3], 2048), nn.ReLU(), nn.Dropout(drop_rate), nn.Linear(2048, self.out_features)
        )
        self.to(memory_format=torch.channels_last)

    def features(self, x: Tensor, context: Context) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x, context)
        h: Tensor = self.readout(x.mean((2, 3)))
        return h


class _SNAILBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, norm: NormKind, name: str, drop_rate: float) -> None:
        super().__init__()
        widths = (inputs, outputs, outputs)
        self.convs = nn.ModuleList(nn.Conv2d(width, outputs, 3, padding=1, bias=False) for width in widths)
        self.norms = nn.ModuleList(Norm(outputs, norm, f"{name}.{i}") for i in range(3))
        self.shortcut = nn.Conv2d(inputs, outputs, 1)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        out = x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            out = F.leaky_relu(norm(conv(out), context), LEAK)
        # ceil: an odd row is kept, so that 84x84 ends as 6x6
        pooled: Tensor = self.drop(F.max_pool2d(out + self.shortcut(x), 2, ceil_mode=True))
        return pooled
