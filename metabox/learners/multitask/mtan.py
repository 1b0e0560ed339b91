"""Multi-task attention network: one shared network, and attention modules that choose its features for each part."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.method import Method
from metabox.learners.multitask.dense import area_of, maps_of, resized
from metabox.nn.backbones import Backbone, image_shape
from metabox.nn.norm import MOMENTUM, Context, Norm
from metabox.nn.towers import Split, Stack
from metabox.ranges import Count, Natural
from metabox.targets import Parts, TaskSpec


class MTAN(Learner):
    """The multi-task attention network of Liu et al. 2019 ("End-to-end multi-task learning with attention").

    One encoder and decoder is shared. At each level, part k has a mask `a_k = sigmoid(h_k(g_k([u; e_k])))` from the
    level's first shared features u and its own features e_k of the level before, and takes `a_k * p` of the level's
    second shared features p; a shared convolution f carries it to the next level (equations 1 and 2). A head of a 3x3
    and a 1x1 convolution predicts the part. A descriptor enters the heads at every pixel; the support is not read. A
    vector is an image of one pixel.

    Deviations, from the authors' code (`model_segnet_mtan.py`): the shared network is a U-Net of `depth` + 1 levels of
    two convolutions, with skip connections and nearest-pixel upsampling, where they have a SegNet of five levels that
    unpools by the indices of its maxima. Its lowest level has a mask, but no pooling below it. f normalises the parts'
    features together. Outputs are those of the targets: theirs are logits, one number, and a vector of length 1.

    Args:
        spec: the tasks.
        width: channels of the first level, and of each part's last features.
        depth: levels below the first; the image is halved that many times. By default 3, or as many as it has room for.

    Raises:
        ValueError: if inputs are neither images nor vectors, or too small for so many levels; if a part has neither
            zero nor two spatial axes.
    """

    method = Method(
        adapt=(("descriptor", r"\task = \z"),),
        predict=(
            ("shared network", r"u^l, p^l = F^l(x; \params_{\mathrm{sh}})"),
            (
                "mask of each part",
                r"e_k^l = f^l\big(a_k^l \had p^l\big), \quad a_k^l = \sigma\big(h_k^l([u^l, e_k^{l-1}])\big)",
            ),
            ("head of each part", r"p(y_k \mid x, \task) = p\big(y_k; \net{head}_k(e_k^L, \task)\big)"),
        ),
        cost=("1", "M K"),
        kin={"DenseMultiTask": "each part takes what it needs of the shared features, by a mask at every level"},
    )
    targets = (Parts,)
    reads_support = False

    def __init__(self, spec: TaskSpec, *, width: Count = 16, depth: Natural | None = None) -> None:
        super().__init__(spec)
        self.target = cast(Parts, spec.target)
        if wrong := [part.name for part in spec.target.parts if len(part.spatial) not in (0, 2)]:
            raise ValueError(f"expected parts of no or two spatial axes, got others in {wrong}")
        k = len(spec.target.parts)
        self.backbone = _Attended(spec.x_shape, k, width, depth)
        self.heads = nn.ModuleList(
            nn.Sequential(_Own(i, k, width + spec.descriptor_size, width, 3), _Own(i, k, width, maps_of(part), 1))
            for i, part in enumerate(spec.target.parts)
        )

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `code [T, dz]`, the descriptor."""
        like = next(self.parameters())
        return {"code": like.new_zeros(len(support), 0) if descriptor is None else descriptor.to(like.dtype)}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        h = self.backbone(x).view(-1, *cast(tuple[int, int, int], self.backbone.map_shape))
        code = phi["code"].repeat_interleave(x.shape[1], dim=0).to(h.dtype)[..., None, None]
        params = []
        for part, own, head in zip(self.target.parts, h.chunk(len(self.heads), dim=1), self.heads, strict=True):
            there = resized(own, area_of(part))
            params.append(head(torch.cat([there, code.expand(-1, -1, *there.shape[2:])], dim=1)).flatten(1))
        return torch.cat(params, dim=1).view(*x.shape[:2], self.n_params)


class _Attended(Backbone):
    """The shared network with its masks: an image to K feature maps of its size, side by side."""

    norm = "batch"

    def __init__(self, x_shape: tuple[int, ...], k: int, width: int, depth: int | None) -> None:
        super().__init__(x_shape)
        self.image = (*x_shape, 1, 1) if len(x_shape) == 1 else image_shape(self)
        channels, height, across = self.image
        deepest = int(math.log2(min(height, across)))
        depth = min(3, deepest) if depth is None else depth
        if depth > deepest:
            raise ValueError(f"expected a depth from 0 to {deepest}, got {depth}")
        sizes = [width * 2**level for level in range(depth + 1)]
        rising = list(reversed(range(depth)))
        self.down = nn.ModuleList(
            nn.ModuleList([_Block(before, size, f"down{i}a"), _Block(size, size, f"down{i}b")])
            for i, (before, size) in enumerate(zip([channels, *sizes], sizes, strict=False))
        )
        self.up = nn.ModuleList(
            nn.ModuleList([_Block(sizes[i + 1] + sizes[i], sizes[i], f"up{i}a"), _Block(sizes[i], sizes[i], f"up{i}b")])
            for i in rising
        )
        # Masks see the first shared features and, beyond the first level, the part's own of the level before.
        self.down_masks = nn.ModuleList(_Mask(k, size * (2 if i else 1), size) for i, size in enumerate(sizes))
        self.up_masks = nn.ModuleList(_Mask(k, sizes[i + 1] + 2 * sizes[i], sizes[i]) for i in rising)
        self.down_carries = nn.ModuleList(_Block(sizes[i], sizes[i + 1], f"carry-down{i}") for i in range(depth))
        self.up_carries = nn.ModuleList(_Block(sizes[i + 1], sizes[i], f"carry-up{i}") for i in rising)
        self.k, self.map_shape = k, (k * width, height, across)
        self.out_features = math.prod(self.map_shape)

    def features(self, x: Tensor, context: Context) -> Tensor:
        x = x.view(-1, *self.image)
        bridges: list[Tensor] = []
        own: Tensor | None = None  # of the parts, [K, B, channels, height, width]
        for i, (level, mask) in enumerate(zip(self.down, self.down_masks, strict=True)):
            first, second = cast(nn.ModuleList, level)
            u = first(F.max_pool2d(x, 2) if bridges else x, context)
            x = second(u, context)
            bridges.append(x)
            if own is not None:
                own = _each(lambda maps: F.max_pool2d(maps, 2), self._carried(self.down_carries[i - 1], own, context))
            own = mask(u, own) * x
        bridges.pop()
        for level, mask, carry in zip(self.up, self.up_masks, self.up_carries, strict=True):
            first, second = cast(nn.ModuleList, level)
            bridge = bridges.pop()
            size = bridge.shape[-2:]
            u = torch.cat([F.interpolate(x, size=size, mode="nearest"), bridge], dim=1)
            x = second(first(u, context), context)
            grow = partial(F.interpolate, size=size, mode="bilinear", align_corners=True)
            wide = _each(grow, cast(Tensor, own))
            own = mask(u, self._carried(carry, wide, context)) * x
        return cast(Tensor, own).transpose(0, 1).flatten(1)

    def _carried(self, block: nn.Module, own: Tensor, context: Context) -> Tensor:
        return _each(lambda maps: block(maps, context), own)


def _each(function: Callable[[Tensor], Tensor], own: Tensor) -> Tensor:
    """A function of images applied to those of all parts: `[K, B, ...]`."""
    maps: Tensor = function(own.flatten(0, 1)).unflatten(0, own.shape[:2])
    return maps


class _Block(nn.Module):
    """A 3x3 convolution, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, name: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = Norm(outputs, "batch", name)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        out: Tensor = torch.relu(self.norm(self.conv(x), context))
        return out


class _Mask(nn.Module):
    """The attention modules of K parts: two 1x1 convolutions each, between 0 and 1 at the end."""

    def __init__(self, k: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.g = Stack(k, inputs, outputs, kernel=1, bias=False, of_tasks=True)
        self.h = Stack(k, outputs, outputs, kernel=1, bias=False, of_tasks=True)
        self.norm_g, self.norm_h = _Norms(k, outputs), _Norms(k, outputs)
        self.k = k

    def forward(self, shared: Tensor, own: Tensor | None) -> Tensor:
        """shared `[B, channels, ...]`, own `[K, B, channels, ...]` -> masks `[K, B, channels, ...]`."""
        x = shared.expand(self.k, *shared.shape)
        x = x if own is None else torch.cat([x, own], dim=2)
        return torch.sigmoid(self.norm_h(self.h(torch.relu(self.norm_g(self.g(x))))))


class _Norms(Split, nn.BatchNorm2d):
    """Batch norm of K parts' images side by side: `[K, B, channels, height, width]`."""

    decayed = ()

    def __init__(self, k: int, channels: int) -> None:
        super().__init__(k * channels, momentum=MOMENTUM)
        self.shares = (channels,) * k

    def forward(self, x: Tensor) -> Tensor:
        wide = super().forward(x.transpose(0, 1).flatten(1, 2))
        out: Tensor = wide.unflatten(1, (len(self.shares), -1)).transpose(0, 1)
        return out


class _Own(Split, nn.Conv2d):
    """A convolution that belongs to part i of k alone."""

    decayed = ("weight",)

    def __init__(self, i: int, k: int, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.shares = tuple(outputs if j == i else 0 for j in range(k))
