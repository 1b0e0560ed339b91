"""Backbones: inputs `[B, *x_shape]` to features `[B, out_features]`."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, cast

import torch
from torch import Tensor, nn

from metabox.checks import shown
from metabox.config import Configured
from metabox.nn.conditioned import Held, through
from metabox.nn.norm import Context, Norm, NormKind
from metabox.ranges import Count, Natural, Shape

_reads: ContextVar[bool] = ContextVar("reads_initial_weights", default=True)


@contextmanager
def initial_weights(wanted: bool) -> Iterator[None]:
    """Inside, whether backbones read pre-trained weights, or are random because others take their place."""
    token = _reads.set(wanted)
    try:
        yield
    finally:
        _reads.reset(token)


def reads_initial_weights() -> bool:
    """Whether a backbone that is made now is to read its pre-trained weights."""
    return _reads.get()


class Backbone(nn.Module, Configured, ABC):
    """Maps one input to one feature vector. The constructor's first argument is `x_shape`.

    out_features: width of that vector
    map_shape: (channels, height, width) if the vector is a flattened feature map, else None
    norm: how it normalises, a key of `metabox.nn.norm.NORMS`
    origin: source of its initial weights, if they are pre-trained
    """

    out_features: int
    map_shape: tuple[int, int, int] | None = None
    norm: str = "none"
    origin: str | None = None

    def __init__(self, x_shape: Shape) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)

    @abstractmethod
    def features(self, x: Tensor, context: Context) -> Tensor:
        """`[B, *x_shape]` floats (images in 0...1) -> `[B, out_features]`."""

    def forward(self, x: Tensor, task: dict[str, Tensor] | None = None) -> Tensor:
        """Any leading axes: `[T, N, *x_shape]` -> `[T, N, out_features]`. uint8 is scaled to floats in 0...1.

        `task` is the second result of `adapt` for the tasks of axis 0.
        """
        return self._run(x, Context(known=task or {}))

    def adapt(self, x: Tensor, mask: Tensor, task: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Embed the support: x `[T, N, *x_shape]`, mask `[T, N]` -> features, and `task` with the support's statistics.

        `task` may hold FiLM parameters, `film.NAME [T, 2, channels]`, for the layers that `film_sizes` names.
        """
        context = Context(known=task or {}, mask=mask)
        features = self._run(x, context)
        return features, context.known | context.measured

    def packaged(self) -> Mapping[str, Tensor] | None:
        """Weights that come with the package, from which it starts; a model file names them by hash instead."""
        return None

    def film_sizes(self) -> dict[str, int]:
        """The layers that can be modulated, name to channels."""
        return {layer.name: layer.channels for layer in self.modules() if isinstance(layer, Norm)}

    def in_order(self) -> list[Held]:
        """Its layers from the input up, if each reads what the one before gives, so that a code can enter at each.

        Raises:
            ValueError: if it has no such order.
        """
        raise ValueError(
            f"expected a backbone of layers in a row, such as MLP or Conv4, got {type(self).__name__}; let the code "
            'enter at "features", behind it'
        )

    def _run(self, x: Tensor, context: Context) -> Tensor:
        lead = x.shape[: x.ndim - len(self.x_shape)]
        if x.dtype == torch.uint8:
            x = x.to(next(self.parameters(), torch.empty(0)).dtype) / 255
        if 0 in lead:
            return x.new_zeros(*lead, self.out_features)
        context.n_tasks = lead[0] if lead else 1
        # Padding passes through too: shapes stay fixed, and samplers pad with images of the task.
        return self.features(x.reshape(-1, *self.x_shape), context).view(*lead, self.out_features)


MakeBackbone = Callable[[tuple[int, ...]], Backbone]


class Conv4(Backbone):
    """Four blocks of 3x3 convolution, batch norm, ReLU and halving (Vinyals et al. 2016, section 4.1).

    Args:
        x_shape: `(channels, height, width)`.
        width: channels of every block, 64 in the paper.
        downsample: how a block halves the image. "pool": 2x2 max-pooling, as in the paper. "stride": the stride
            of the convolution, as Finn et al. 2017 did for Omniglot; a quarter of the arithmetic. "stem": the
            first block by its stride and the others by pooling; a third of the arithmetic.
        norm: whose statistics normalise an image (see `metabox.nn.norm.Norm`).
        gain: whether normalisation has a learned factor of each channel; Finn et al. 2017 had only the shift.
        average: average the last feature map over its positions, as Finn et al. 2017 did for Omniglot; else keep it.
    """

    def __init__(
        self,
        x_shape: Shape,
        width: Count = 64,
        downsample: Literal["pool", "stride", "stem"] = "pool",
        norm: NormKind = "batch",
        gain: bool = True,
        average: bool = False,
    ) -> None:
        super().__init__(x_shape)
        self.norm, self.average = norm, average
        channels, height, width_px = image_shape(self)
        self.blocks = nn.ModuleList()
        for i in range(4):
            strided = downsample == "stride" or (downsample == "stem" and i == 0)
            conv = nn.Conv2d(channels if i == 0 else width, width, 3, 2 if strided else 1, padding=1, bias=False)
            # ceil: an odd row is kept, so that 28x28 ends as 2x2 by stride or by stem
            pool = nn.Identity() if strided else nn.MaxPool2d(2, ceil_mode=downsample == "stem")
            self.blocks.append(nn.ModuleList([conv, Norm(width, norm, str(i), gain), pool]))
            halve = math.floor if downsample == "pool" else math.ceil
            height, width_px = halve(height / 2), halve(width_px / 2)
        if not height * width_px:
            raise ValueError(f'expected images of at least 16x16 for four poolings, got {x_shape}; use "stride"')
        self.map_shape = None if average else (width, height, width_px)
        self.out_features = width if average else width * height * width_px
        # Channels last: faster convolutions on a CPU and on tensor cores.
        self.to(memory_format=torch.channels_last)

    def in_order(self) -> list[Held]:
        return [(cast(nn.ModuleList, block), 0) for block in self.blocks]

    def features(self, x: Tensor, context: Context) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            conv, norm, pool = cast(nn.ModuleList, block)
            x = torch.relu(
                pool(norm(through(conv, x, context), context))
            )  # ReLU after pooling: the same result, on a quarter of the pixels
        return x.mean((2, 3)) if self.average else x.flatten(1)


class MLP(Backbone):
    """A perceptron for vectors; other shapes are flattened.

    Args:
        x_shape: the shape of one input.
        width: units of every layer.
        depth: number of linear layers.
        activation: what follows each of them, "gelu" or "relu".
    """

    def __init__(
        self,
        x_shape: Shape,
        width: Count = 128,
        depth: Natural = 2,
        activation: Literal["gelu", "relu"] = "gelu",
    ) -> None:
        super().__init__(x_shape)
        sizes = [math.prod(self.x_shape)] + [width] * depth
        follows = nn.GELU if activation == "gelu" else nn.ReLU
        layers = [[nn.Linear(a, b), follows()] for a, b in itertools.pairwise(sizes)]
        self.layers = nn.Sequential(*(part for layer in layers for part in layer))
        self.out_features = sizes[-1]

    def in_order(self) -> list[Held]:
        return [(self.layers, i) for i in range(0, len(self.layers), 2)]

    def features(self, x: Tensor, context: Context) -> Tensor:
        # len(x) would fix a size that an export leaves free
        h = x.reshape(x.shape[0], -1)
        for layer in self.layers:
            h = through(layer, h, context)
        return h


class Flatten(Backbone):
    """The input itself, flattened: no parameters.

    Args:
        x_shape: the shape of one input.
    """

    def __init__(self, x_shape: Shape) -> None:
        super().__init__(x_shape)
        self.out_features = math.prod(self.x_shape)

    def in_order(self) -> list[Held]:
        return []

    def features(self, x: Tensor, context: Context) -> Tensor:
        return x.reshape(x.shape[0], -1)


def image_shape(backbone: Backbone) -> tuple[int, int, int]:
    """(channels, height, width) of a backbone that takes images.

    Raises:
        ValueError: if its inputs are not images.
    """
    if len(backbone.x_shape) != 3:
        raise ValueError(
            f"expected images [channels, height, width] for {type(backbone).__name__}, got x_shape "
            f"{backbone.x_shape}; use MLP"
        )
    channels, height, width = backbone.x_shape
    return channels, height, width


def make_backbone(make: MakeBackbone | None, x_shape: tuple[int, ...]) -> Backbone:
    """What `make` builds, or if it is None, `Conv4` for images and `MLP` for anything else.

    Raises:
        ValueError: if `make` builds anything but a backbone.
    """
    if make is None:
        return Conv4(x_shape) if len(x_shape) == 3 else MLP(x_shape)
    made: object = make(x_shape)
    if not isinstance(made, Backbone):
        raise ValueError(f"expected a class or function that makes a backbone, got {shown(made)} from {shown(make)}")
    return made
