"""A perceptron over a concatenation of parts."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn


class Perceptron(nn.Sequential):
    """Linear layers with ReLU between them.

    Called with several parts `[..., size]`, it is the perceptron of their concatenation, after broadcasting them
    against each other. The first layer maps each part separately and adds the results, which is equal and cheaper: what
    many rows share (a task code, a sample of z) is mapped once, and never repeated.

    Args:
        inputs: total width of the parts.
        width: units of the hidden layers.
        outputs: units of the last layer.
        depth: number of linear layers.
        bias: whether the last layer has one.
    """

    def __init__(self, inputs: int, width: int, outputs: int, depth: int = 3, bias: bool = True) -> None:
        sizes = itertools.pairwise([inputs] + [width] * (depth - 1))
        # Not in place: of three axes a linear map returns a view, and autograd copies what is changed under a view.
        hidden = [layer for a, b in sizes for layer in (nn.Linear(a, b), nn.ReLU())]
        super().__init__(*hidden, nn.Linear(width if depth > 1 else inputs, outputs, bias=bias))
        for parameter in self.parameters():
            nn.init.xavier_uniform_(parameter) if parameter.ndim > 1 else nn.init.zeros_(parameter)

    def forward(self, *parts: Tensor) -> Tensor:
        first, *rest = self
        assert isinstance(first, nn.Linear)
        weights = first.weight.split([part.shape[-1] for part in parts], dim=1)
        x = F.linear(parts[0], weights[0], first.bias)
        for part, weight in zip(parts[1:], weights[1:], strict=True):
            x = x + F.linear(part, weight)
        for layer in rest:
            x = layer(x)
        return x
