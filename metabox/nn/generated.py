"""Layers whose weights differ from task to task, and a hypernetwork that generates such weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def task_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` with the weights of each task: x `[T, M, D]`, weight `[T, K, D]`, bias `[T, K]` -> `[T, M, K]`.

    Raises:
        ValueError: if x and the weights are not of the same tasks.
    """
    _check(x, weight)
    y = x @ weight.transpose(1, 2)
    return y if bias is None else y + bias.to(y.dtype)[:, None]


def task_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int | str = 0, stride: int = 1
) -> Tensor:
    """`F.conv2d` with the kernels of each task, as one convolution of T groups.

    x `[T, M, C, H, W]`, weight `[T, C', C, k, k]`, bias `[T, C']` -> `[T, M, C', H', W']`.

    Raises:
        ValueError: if x and the weights are not of the same tasks.
    """
    _check(x, weight)
    channels, bias = weight.shape[1], None if bias is None else bias.flatten()
    # One image of the batch holds the m-th images of all tasks: [M, T * C, H, W].
    together = x.transpose(0, 1).flatten(1, 2)
    y = F.conv2d(together, weight.flatten(0, 1), bias, padding=padding, stride=stride, groups=len(weight))
    of_tasks: Tensor = y.unflatten(1, (-1, channels))
    return of_tasks.transpose(0, 1)


class StaticHyper(nn.Module):
    """The static hypernetwork of Ha et al. 2017 (section 3.1, equation 2): embedding z^j to kernel K^j.

    a_i = W_i z + B_i for every input channel i; K_i = <W_out, a_i> + B_out, with W_out and B_out shared by all i.

    Args:
        code: N_z, size of an embedding.
        inputs: N_in, input channels.
        outputs: N_out, output channels.
        kernel: f_size, side of a kernel; 1 generates the weights of a linear layer.
        hidden: d, size of a_i; N_z in the paper.
    """

    def __init__(self, code: int, inputs: int, outputs: int, kernel: int = 1, hidden: int | None = None) -> None:
        super().__init__()
        self.inputs, self.outputs, self.kernel = inputs, outputs, kernel
        hidden = hidden or code
        self.inner = nn.Linear(code, inputs * hidden)
        self.outer = nn.Linear(hidden, kernel * outputs * kernel)

    def forward(self, z: Tensor) -> Tensor:
        """z `[..., N_z]` -> kernels `[..., N_out, N_in, f, f]`, scaled to preserve the size of activations."""
        a = self.inner(z).unflatten(-1, (self.inputs, -1))
        k = self.outer(a).unflatten(-1, (self.kernel, self.outputs, self.kernel))  # [..., N_in, f, N_out, f]
        return torch.movedim(k, -2, -4) / math.sqrt(self.inputs * self.kernel**2)


def _check(x: Tensor, weight: Tensor) -> None:
    if len(x) != len(weight):
        raise ValueError(f"expected inputs and weights of the same tasks, got {len(x)} and {len(weight)} of them")
