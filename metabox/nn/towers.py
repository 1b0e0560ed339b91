"""K networks side by side: stacked layers, units that join them, and which of their parameters the tasks share.

Parameters of K networks are one tensor with K in front. Either every network sees the same rows (x `[K, B, ...]`), or a
task code `[T, K]`, or the number of a network `[T]`, selects the network for the rows of each task (x `[T, M, ...]`).
In the latter case the weights are mixed, sum_k z_k W_k, so that a row costs one network and not K: with a one-hot code
this is exactly network k, with a soft one every layer's output is the mixture of K layers' outputs.
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
    """theta_i: the parameters that only the loss of task (or part) i reaches, by name; each is a view of a stack.

    This holds while the code of a task is one-hot. With a soft code the loss of a task reaches those of all tasks.

    Raises:
        IndexError: if the module has at most i tasks.
    """
    parameters = dict(module.named_parameters())
    return {name: parameters[name].split(shares)[i] for name, shares in _shares(module).items()}


def _shares(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The parameters that are split among the tasks, by name: the number of rows of axis 0 for each task."""
    return {
        f"{prefix}.{name}".lstrip("."): part.shares
        for prefix, part in module.named_modules()
        for name, _ in part.named_parameters(recurse=False)
        if isinstance(part, Split) and part.shares
    }


class Split(nn.Module):
    """A module whose parameters are those of several tasks, one after another along axis 0.

    shares: how many rows of axis 0 belong to task 0, 1, ...; empty if the losses of several tasks reach all of them
    """

    shares: tuple[int, ...] = ()


def mixed(code: Tensor | None, stacked: Tensor) -> Tensor:
    """sum_k z_k W_k: code `[T, K]`, stacked `[K, ...]` -> `[T, ...]`; without a code `stacked` unchanged.

    Whole numbers `[T]` stand for one-hot codes: W_k is gathered, at a cost that does not depend on K.
    """
    if code is not None and not code.is_floating_point():
        return stacked[code]
    return stacked if code is None else torch.tensordot(code.to(stacked.dtype), stacked, dims=1)


class Stack(Split):
    """K linear layers or convolutions side by side, each initialised as by torch.

    Args:
        copies: K.
        inputs: features or channels in.
        outputs: features or channels out.
        kernel: side of a convolution's kernel, odd; None for linear layers.
        stride: of a convolution.
        bias: whether layers have one.
        of_tasks: whether layer k belongs to task k alone.
    """

    decayed = ("weight",)

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
        """x `[K, B, ...]`, or with a code `[T, K]` or `[T]` x `[T, M, ...]` -> with `outputs` features or channels."""
        weight, bias = mixed(code, self.weight), None if self.bias is None else mixed(code, self.bias)
        if self.kernel:
            return task_conv2d(x, weight, bias, padding=self.kernel // 2, stride=self.stride)
        return task_linear(x, weight, bias)


class PartHeads(Split):
    """A linear layer for each of K parts, with different numbers of outputs: h `[K, B, features]` -> `[B, sum(sizes)]`.

    Args:
        features: width of h.
        sizes: outputs of each part, which are concatenated.
    """

    decayed = ("weight",)
    place: Tensor  # [sum(sizes)], index of each output among K times the largest size

    def __init__(self, features: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.shares = sizes
        bound = 1 / math.sqrt(features)
        self.weight = nn.Parameter(torch.empty(sum(sizes), features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(sum(sizes)).uniform_(-bound, bound))
        place = torch.cat([k * max(sizes) + torch.arange(size) for k, size in enumerate(sizes)])
        self.register_buffer("place", place, persistent=False)

    def forward(self, h: Tensor, code: Tensor | None = None) -> Tensor:
        """`code` is None, since all parts are computed."""
        # One matrix product, padded with zeros to the largest size; the padding is dropped afterwards.
        whole = self.weight.new_zeros(len(h) * max(self.shares), self.weight.shape[1])
        padded = whole.index_copy(0, self.place, self.weight).unflatten(0, (len(h), -1))
        y = task_linear(h, padded).transpose(0, 1).flatten(1)[:, self.place]
        return y + self.bias.to(y.dtype)


class Stitch(Split):
    """The cross-stitch unit (Misra et al. 2016, equation 1) of K networks: x_i <- sum_j alpha_ij x_j.

    One alpha for each channel (or feature), as in section 4 of the paper. Initially alpha_ii = `same`, and the rest of
    1 is divided among the other networks.

    Args:
        copies: K.
        channels: of the activations.
        same: initial alpha_ii.
        of_tasks: whether x_i is used by task i only.
    """

    decayed = ()

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

    Vectors go through linear layers with ReLU. Images go through 3x3 convolutions of stride 2, normalisation of each
    image separately, since batch statistics would leak information between tasks, and ReLU. Additional features become
    constant channels of an image.

    Args:
        x_shape: the shape of one input, which is passed flattened.
        extra: number of additional features after it.
        copies: K.
        width: units or channels of a layer.
        depth: layers.
        stitch: initial alpha_ii of the cross-stitch unit after each layer; None for no such units.
    """

    def __init__(
        self, x_shape: tuple[int, ...], extra: int, copies: int, width: int, depth: int, stitch: float | None = None
    ) -> None:
        super().__init__()
        self.x_shape, self.is_image = x_shape, len(x_shape) == 3
        kernel, inputs = (3, x_shape[0]) if self.is_image else (None, math.prod(x_shape))
        sizes = [inputs + extra] + [width] * depth
        self.layers = nn.ModuleList(
            Stack(copies, a, b, kernel=kernel, stride=2 if kernel else 1, of_tasks=stitch is None)
            for a, b in itertools.pairwise(sizes)
        )
        # Each output of the last unit is used by one task only, and so is that unit's alpha_i.
        self.stitches = nn.ModuleList(
            nn.Identity() if stitch is None else Stitch(copies, width, stitch, of_tasks=i == depth - 1)
            for i in range(depth)
        )
        sides = [math.ceil(side / 2**depth) for side in x_shape[1:]] if self.is_image else []
        self.out_features = sizes[-1] * math.prod(sides)

    def forward(self, h: Tensor, code: Tensor | None = None) -> Tensor:
        if self.is_image:
            pixels = math.prod(self.x_shape)
            x, extra = h[..., :pixels].unflatten(-1, self.x_shape), h[..., pixels:, None, None]
            h = torch.cat([x, extra.expand(*extra.shape[:3], *self.x_shape[1:])], dim=2)
        for layer, stitch in zip(self.layers, self.stitches, strict=True):
            h = layer(h, code)
            if self.is_image:
                h = F.group_norm(h.flatten(0, 1), 1).unflatten(0, h.shape[:2])
            h = stitch(torch.relu(h))
        return h.flatten(2)
