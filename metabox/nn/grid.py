"""Functions on a regular grid: set convolution to and from it, and convolutional networks over it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Grid(nn.Module):
    """A regular grid over `[low - margin, high + margin]` in each of one or two dimensions.

    The grid always has two axes, G and H; in one dimension G is 1.

    Args:
        dim: number of dimensions, 1 or 2.
        low: lower end of the range of inputs.
        high: upper end.
        points_per_unit: grid points per unit of x.
        multiple: the number of points on an axis is a multiple of this; additional ones widen both margins.
        margin: extension of the range at both ends.
    """

    def __init__(
        self, dim: int, low: float, high: float, points_per_unit: float, multiple: int = 1, margin: float = 0.1
    ) -> None:
        super().__init__()
        self.dim, self.points_per_unit = dim, points_per_unit
        self.size = math.ceil((high - low + 2 * margin) * points_per_unit / multiple) * multiple
        self.first = (low + high) / 2 - (self.size - 1) / (2 * points_per_unit)

    @property
    def ends(self) -> tuple[float, float]:
        """The first and the last point of an axis."""
        return self.first, self.first + (self.size - 1) / self.points_per_unit

    def weights(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """exp(-d²/2 scale²) between inputs `[T, N, dim]` and the grid, by axis: `[T, N, G]` and `[T, N, H]`."""
        at = self.first + torch.arange(self.size, device=x.device) / self.points_per_unit
        # The scale comes last: nothing before it needs a gradient.
        square = (x[..., None] - at).square()  # [T, N, dim, size]
        near = torch.exp((square * (-0.5 * scale**-2)).clamp(min=FARTHEST))
        if self.dim == 2:
            along, across = near.unbind(2)
            return along, across
        near = near.squeeze(2)
        return torch.ones_like(near[..., :1]), near

    def extra_repr(self) -> str:
        return f"{self.dim}, size={self.size}, points_per_unit={self.points_per_unit}"


FARTHEST = -40.0  # exp(-40) is negligible beside 1; much smaller numbers are denormal, which is slow on a CPU


class SetConv(nn.Module):
    """Set convolution between scattered points and a grid, Σ_i v_i exp(-d_i²/2 scale²), with learned length scales.

    Args:
        grid: the grid.
        scale: initial length scale.
        channels: of the values, if each has a length scale of its own; None for one that all share.
    """

    decayed = ()

    def __init__(self, grid: Grid, scale: float, channels: int | None = None) -> None:
        super().__init__()
        self.grid = grid
        self.log_scale = nn.Parameter(torch.full(() if channels is None else (channels,), math.log(scale)))

    def to_grid(self, x: Tensor, values: Tensor) -> Tensor:
        """Values `[T, N, V]` at x `[T, N, dim]` -> `[T, V, G, H]`, float32."""
        return torch.cat([self._to_grid(x, part, scale) for part, scale in self._parts(values, 2)], dim=1)

    def from_grid(self, field: Tensor, x: Tensor) -> Tensor:
        """A field `[T, V, G, H]` at x `[T, M, dim]`: `[T, M, V]`, float32."""
        return torch.cat([self._from_grid(part, x, scale) for part, scale in self._parts(field, 1)], dim=2)

    def _parts(self, values: Tensor, axis: int) -> list[tuple[Tensor, Tensor]]:
        """Channels that share a length scale, with that scale."""
        scale = self.log_scale.exp()
        return list(zip(values.split(1, axis), scale, strict=True)) if scale.ndim else [(values, scale)]

    def _to_grid(self, x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # bf16 would blur the distances
            g, h = self.grid.weights(x.float(), scale)
            rows = (values.float()[..., None] * g[:, :, None]).flatten(2)  # [T, N, V G]
            field: Tensor = (rows.mT @ h).unflatten(1, (values.shape[2], -1))
            return field

    def _from_grid(self, field: Tensor, x: Tensor, scale: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            g, h = self.grid.weights(x.float(), scale)
            columns: Tensor = (field.float().flatten(1, 2) @ h.mT).unflatten(1, field.shape[1:3])  # [T, V, G, M]
            return (columns * g.mT[:, None]).sum(2).mT


class GridUNet(nn.Module):
    """A U-Net: strided convolutions and ReLU on the way down, transposed ones on the way up, each concatenated with the
    output of that size on the way down, as in Gordon et al.'s code (github.com/cambridge-mlg/convcnp).

    It is equivariant to shifts by 2^depth points, except near the ends, which are padded with zeros.

    Args:
        dim: 1 or 2; with 1, kernels have size 1 along the first axis.
        inputs: channels of the input.
        channels: those of the levels, each half as long as the one above; both sides must be multiples of
            2^len(channels). The output has as many as the first.
        kernel: points of a kernel along an axis, odd.
    """

    def __init__(self, dim: int, inputs: int, channels: Sequence[int], kernel: int = 5) -> None:
        super().__init__()
        size, stride, padding, more = (
            (value if dim == 2 else along, value) for value, along in ((kernel, 1), (2, 1), (kernel // 2, 0), (1, 0))
        )
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, size, stride, padding) for a, b in itertools.pairwise([inputs, *channels])
        )
        up = [*reversed(channels[:-1]), channels[0]]
        before = [channels[-1], *(2 * width for width in up[:-1])]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, size, stride, padding, more) for a, b in zip(before, up, strict=True)
        )
        self.out_channels, self.multiple = channels[0], 2 ** len(channels)
        self.to(memory_format=torch.channels_last)  # faster on a CPU and on tensor cores

    def forward(self, x: Tensor) -> Tensor:
        """`[T, inputs, G, H]` -> `[T, channels[0], G, H]`."""
        x = x.contiguous(memory_format=torch.channels_last)
        levels: list[Tensor] = []
        for layer in self.down:
            x = F.relu(layer(x), inplace=True)
            levels.append(x)
        levels.pop()
        for layer in self.up:
            x = F.relu(layer(x), inplace=True)
            if levels:
                x = torch.cat([x, levels.pop()], dim=1)
        return x


class GridConv(nn.Module):
    """Convolutions of the grid's own size, each followed by ReLU.

    Args:
        dim: 1 or 2; with 1, kernels have size 1 along the first axis.
        inputs: channels of the input.
        channels: those of the layers.
        kernel: points of a kernel along an axis, odd.
    """

    def __init__(self, dim: int, inputs: int, channels: Sequence[int], kernel: int = 5) -> None:
        super().__init__()
        size = (kernel if dim == 2 else 1, kernel)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, size, padding=(size[0] // 2, size[1] // 2))
            for a, b in itertools.pairwise([inputs, *channels])
        )
        self.out_channels, self.multiple = channels[-1], 1
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """`[T, inputs, G, H]` -> `[T, channels[-1], G, H]`."""
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            x = F.relu(layer(x), inplace=True)
        return x
