"""The precision that a run trains in, if it is free to choose."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from metabox.nn.towers import Stack
from metabox.training.settings import OuterLoop

Choice = Literal["bf16", "32"]

WIDE = 256
"""Width from which a learner without convolutions is faster in bf16 on a CPU."""


def choose(outer: OuterLoop, model: nn.Module, device: torch.device, recorded: object = None) -> Choice:
    """The precision of a run: the one asked for; with "auto" the recorded one of a resumed run, else the faster one."""
    if outer.precision != "auto":
        return outer.precision
    if recorded == "bf16" or recorded == "32":
        return recorded
    return faster(model, device)


def faster(model: nn.Module, device: torch.device) -> Choice:
    """The precision in which steps are faster, by a fixed rule: on one kind of device the same in every run.

    A GPU with bf16 uses it. A CPU with fast bf16 uses it for models with convolutions, and for others if their width
    reaches `WIDE`, since the casts of narrow layers take longer than their products save. The rule is fitted to
    `benchmarks/results/precision.json`.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(False) else "32"
    if device.type != "cpu" or not torch.cpu._is_avx512_bf16_supported():
        return "32"
    return "bf16" if convolves(model) or width(model) >= WIDE else "32"


def convolves(model: nn.Module) -> bool:
    """Whether a model has convolutions."""
    return any(isinstance(part, _ConvNd) or (isinstance(part, Stack) and part.kernel) for part in model.modules())


def width(model: nn.Module) -> int:
    """The width of the widest linear layer: the smaller one of its inputs and outputs; 0 without layers.

    It means nothing for a model with convolutions.
    """
    return max((min(weight.shape[-2:]) for weight in model.parameters() if weight.ndim > 1), default=0)
