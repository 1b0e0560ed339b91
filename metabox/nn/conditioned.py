"""Layers of a backbone whose input is conditioned on the task code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metabox.nn.conditioning import Conditioner
from metabox.nn.norm import Context

CODE = "code"
"""The key of the task code `[T, code]` in a `Context`."""

Layer = nn.Linear | nn.Conv2d
Held = tuple[nn.ModuleList | nn.Sequential, int]
"""A layer, as the module that holds it and its number there."""


class ConditionedLayer(nn.Module):
    """A linear layer or convolution behind a conditioner, which the code of each task enters.

    The code conditions every row, or every pixel, by itself: concatenated, it is constant maps beside the channels. A
    layer whose conditioner gives more features than it had inputs is made anew, with as many inputs. It begins with the
    weights that it had: those of a wide layer would be small for few channels beside a code of many numbers.

    Args:
        layer: what follows the conditioner.
        condition: how the code enters.
        code: width of the task code.
    """

    def __init__(self, layer: Layer, condition: type[Conditioner], code: int) -> None:
        super().__init__()
        inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        self.condition = condition(inputs, code)
        self.layer = layer if self.condition.out_features == inputs else _like(layer, self.condition.out_features)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x `[T * N, features]` or `[T * N, channels, height, width]`, those of a task one after another."""
        code = context.known.get(CODE)
        if code is None:
            raise ValueError('expected the code of each task for conditioned layers, got none; pass task={"code": z}')
        rows = x.movedim(1, -1)
        h = self.condition(rows.reshape(context.n_tasks, -1, rows.shape[-1]), code)
        out: Tensor = self.layer(h.view(*rows.shape[:-1], -1).movedim(-1, 1))
        return out


@torch.no_grad()
def _like(layer: Layer, inputs: int) -> Layer:
    """A new layer with so many inputs, of which the first are those of the old one."""
    made: Layer
    if isinstance(layer, nn.Linear):
        made = nn.Linear(inputs, layer.out_features, bias=layer.bias is not None)
    else:
        size, stride, padding = layer.kernel_size, layer.stride, layer.padding
        made = nn.Conv2d(inputs, layer.out_channels, size, stride, padding, bias=layer.bias is not None)  # type: ignore[arg-type]
        made.weight.data = made.weight.data.clone(memory_format=_format_of(layer.weight))
    made.weight[:, : layer.weight.shape[1]] = layer.weight
    if layer.bias is not None:
        made.bias = layer.bias
    return made


def _format_of(weight: Tensor) -> torch.memory_format:
    last = weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def condition_layers(layers: Sequence[Held], condition: type[Conditioner], code: int) -> None:
    """Condition these layers of a backbone, in place."""
    for holder, i in layers:
        holder[i] = ConditionedLayer(holder[i], condition, code)  # type: ignore[arg-type]


def through(layer: nn.Module, x: Tensor, context: Context) -> Tensor:
    """What a layer makes of x, which a conditioned one does by the context."""
    out: Tensor = layer(x, context) if isinstance(layer, ConditionedLayer) else layer(x)
    return out
