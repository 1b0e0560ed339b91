"""torch.compile for the objective: whether to use it, and falling back if it fails."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from metabox.episodes import Episodes
from metabox.objectives import Objective
from metabox.training.settings import OuterLoop

if TYPE_CHECKING:
    from lightning_fabric.plugins.precision import Precision

log = logging.getLogger(__name__)


def compiles(outer: OuterLoop, device: torch.device) -> bool:
    """Whether the objective is to be compiled; "auto" does not on a CPU, where it slows many learners down."""
    return outer.compile == "on" or (outer.compile == "auto" and device.type == "cuda" and not outer.sharded)


def compiled(model: Objective, episodes: Episodes, precision: Precision, backend: str = "inductor") -> nn.Module:
    """The model compiled, after a trial step that changes nothing; if that fails, the model itself, with a warning.

    If sizes of the batch change (ragged shots), it is compiled once more with symbolic sizes, and then no more.
    """
    buffers = [buffer.clone() for buffer in model.buffers()]
    module = cast(nn.Module, torch.compile(model.train(), backend=backend))
    try:
        with precision.forward_context():
            loss = module(episodes)["loss"].mean()
        loss.backward()
    except Exception as error:  # of many kinds: a missing compiler, or an operation that it does not support
        log.warning("torch.compile fails here, training goes on without: %s", str(error).strip().partition("\n")[0])
        return model
    finally:
        model.zero_grad()
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(value)
    return module
