"""Distances and cosines of features, in float32 even under autocast, since bf16 would blur them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHORTEST = 1e-4  # below this length cosines fade to 0, and their gradients stay small


def exact(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances of a `[T, M, D]` and b `[T, N, D]`: `[T, M, N]`."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = exact(a), exact(b)
        # As |a|^2 - 2ab + |b|^2, since the M * N differences would take D times the memory.
        return a.square().sum(-1)[..., None] - 2 * a @ b.transpose(1, 2) + b.square().sum(-1)[:, None]


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of the angles between a `[T, M, D]` and b `[T, N, D]`: `[T, M, N]`."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = (F.normalize(exact(part), dim=-1, eps=SHORTEST) for part in (a, b))
        return a @ b.transpose(1, 2)
