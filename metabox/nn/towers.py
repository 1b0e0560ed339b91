"""K networks side by side: stacked layers, what joins them, and which of their parameters the tasks share.

Parameters of K networks are one tensor with K in front. Rows pass them in one of two ways: every network sees the same
rows (x `[K, B, ...]`), or a task code `[T, K]` says which network the rows of each task pass (x `[T, M, ...]`). There
the weights are mixed, sum_k z_k W_k, so that a row costs one network and not K: with a one-hot code this is network k
exactly, with a soft one every layer's output is the mixture of K layers' outputs.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.nn.generated import task_conv2d, task_linear


def shared_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """theta_sh: the parameters that the losses of several tasks reach, by name."""
    own = _shares(module)
    return {name: parameter for name, parameter in module.named_parameters() if name not in own}


def task_parameters(module: nn.Module, i: int) -> dict[str, Tensor]:
    """theta_i: the parameters that the loss of task (or part) i alone reaches, by name; each is a view of a stack.

    So it is while a task's code is one-hot. A soft code lets the loss of a task reach those of all tasks.

    Raises:
        IndexError: if the module has fewer tasks than that.
    """
    parameters = dict(module.named_parameters())
    return {name: parameters[name].split(shares)[i] for name, shares in _shares(module).items()}


def _shares(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The parameters that are split among the tasks, by name: how many rows of axis 0 are whose."""
    return {
        f"{prefix}.{name}".lstrip("."): part.shares
        for prefix, part in module.named_modules()
        for name, _ in part.named_parameters(recurse=False)
        if isinstance(part, Split) and part.shares
    }


class Split(nn.Module):
    """A module whose parameters are those of several tasks, one after the other along axis 0.

    shares: how many rows of axis 0 belong to task 0, 1, ...; empty where the losses of several tasks reach all of them
    """

    shares: tuple[int, ...] = ()


def mixed(code: Tensor | None, stacked: Tensor) -> Tensor:
    """sum_k z_k W_k: code `[T, K]`, stacked `[K, ...]` -> `[T, ...]`; as it is where there is no code."""
    return stacked if code is None else torch.tensordot(code.to(stacked.dtype), stacked, dims=1)


class Stack(Split):
    """K linear layers or 3x3 convolutions side by side, each initialised as torch does a single one.

    Args:
        copies: K.
        inputs: features or channels in.
        outputs: features or channels out.
        kernel: None for linear layers; the (odd) side of a convolution's window.
        stride: of a convolution.
        bias: whether they have one.
        of_tasks: whether layer k belongs to task k alone.
    """

    def __init__(
        self,
        copies: int,
        inputs: int,
        outputs: int,
        *,
        kernel: int | None = None,
        stride: int = 1,
        bias: bool = True,
        of_tasks: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.shares = (1,) * copies if of_tasks else ()
        window = (kernel, kernel) if kernel else ()
        bound = 1 / math.sqrt(inputs * math.prod(window))
        self.weight = nn.Parameter(torch.empty(copies, outputs, inputs, *window).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(copies, outputs).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        """x `[K, B, ...]`, or with a code `[T, K]` x `[T, M, ...]` -> the same with `outputs` features or channels."""
        weight, bias = mixed(code, self.weight), None if self.bias is None else mixed(code, self.bias)
        if self.kernel:
            return task_conv2d(x, weight, bias, padding=self.kernel // 2, stride=self.stride)
        return task_linear(x, weight, bias)


class PartHeads(Split):
    """A linear layer for each of K parts, of its own number of outputs: h `[K, B, features]` -> `[B, sum(sizes)]`.

    Args:
        features: width of h.
        sizes: outputs of each part; they come out one part after the other.
    """

    place: Tensor  # [sum(sizes)], where each output stands among K times the largest size

    def __init__(self, features: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.shares = sizes
        bound = 1 / math.sqrt(features)
        self.weight = nn.Parameter(torch.empty(sum(sizes), features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(sum(sizes)).uniform_(-bound, bound))
        place = torch.cat([k * max(sizes) + torch.arange(size) for k, size in enumerate(sizes)])
        self.register_buffer("place", place, persistent=False)

    def forward(self, h: Tensor, code: Tensor | None = None) -> Tensor:
        """No part is chosen: `code` is None."""
        # One product of matrices, padded with zeros to the largest size; the padding is dropped after it.
        whole = self.weight.new_zeros(len(h) * max(self.shares), self.weight.shape[1])
        padded = whole.index_copy(0, self.place, self.weight).unflatten(0, (len(h), -1))
        y = task_linear(h, padded).transpose(0, 1).flatten(1)[:, self.place]
        return y + self.bias.to(y.dtype)


class Stitch(Split):
    """The cross-stitch unit (Misra et al. 2016, equation 1) of K networks: x_i <- sum_j alpha_ij x_j.

    One alpha for each channel (or feature), as in section 4 there. At first alpha_ii = `same`, and the rest of 1 is
    divided among the other networks.

    Args:
        copies: K.
        channels: of what is stitched.
        same: alpha_ii at first.
        of_tasks: whether x_i goes to task i alone from here.
    """

    def __init__(self, copies: int, channels: int, same: float = 0.9, of_tasks: bool = False) -> None:
        super().__init__()
        self.shares = (1,) * copies if of_tasks else ()
        alpha = torch.full((copies, copies), (1 - same) / max(1, copies - 1))
        alpha.fill_diagonal_(same if copies > 1 else 1.0)
        self.alpha = nn.Parameter(alpha[:, :, None].repeat(1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """`[K, B, channels, ...]` -> the same shape."""
        return torch.einsum("ijc,jbc...->ibc...", self.alpha.to(x.dtype), x)


class Towers(nn.Module):
    """K networks of one shape, without their last layers: flat inputs `[K or T, B, features]` to `out_features`.

    Vectors go through linear layers with ReLU. Images go through 3x3 convolutions of stride 2, each normalised by the
    image itself, since the statistics of a batch would carry information from task to task, and ReLU. Features beside
    an image's pixels become constant channels of it.

    Args:
        x_shape: the shape of one input; it arrives laid flat.
        beside: features that follow it there.
        copies: K.
        width: units or channels of a layer.
        depth: layers.
        stitch: alpha_ii of the cross-stitch unit after each layer, at first; None for networks without such units.
    """

    def __init__(
        self, x_shape: tuple[int, ...], beside: int, copies: int, width: int, depth: int, stitch: float | None = None
    ) -> None:
        super().__init__()
        self.x_shape, self.is_image = x_shape, len(x_shape) == 3
        kernel, inputs = (3, x_shape[0]) if self.is_image else (None, math.prod(x_shape))
        sizes = [inputs + beside] + [width] * depth
        self.layers = nn.ModuleList(
            Stack(copies, a, b, kernel=kernel, stride=2 if kernel else 1, of_tasks=stitch is None)
            for a, b in itertools.pairwise(sizes)
        )
        # What leaves the last unit goes to one task only, and so does that unit's alpha_i.
        self.stitches = nn.ModuleList(
            nn.Identity() if stitch is None else Stitch(copies, width, stitch, of_tasks=i == depth - 1)
            for i in range(depth)
        )
        sides = [math.ceil(side / 2**depth) for side in x_shape[1:]] if self.is_image else []
        self.out_features = sizes[-1] * math.prod(sides)

    def forward(self, h: Tensor, code: Tensor | None = None) -> Tensor:
        if self.is_image:
            pixels = math.prod(self.x_shape)
            x, beside = h[..., :pixels].unflatten(-1, self.x_shape), h[..., pixels:, None, None]
            h = torch.cat([x, beside.expand(*beside.shape[:3], *self.x_shape[1:])], dim=2)
        for layer, stitch in zip(self.layers, self.stitches, strict=True):
            h = layer(h, code)
            if self.is_image:
                h = F.group_norm(h.flatten(0, 1), 1).unflatten(0, h.shape[:2])
            h = stitch(torch.relu(h))
        return h.flatten(2)
