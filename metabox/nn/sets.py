"""Pooling of sets with padding, and class membership of their elements."""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(ids: Tensor, size: int) -> Tensor:
    """One-hot ids in 0 ... size - 1: `[...]` -> bool `[..., size]`, all False for an id out of range."""
    return ids[..., None] == torch.arange(size, device=ids.device)  # F.one_hot reads ids, which waits for the device


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over valid elements: values `[T, N, D]`, mask `[T, N]` -> `[T, D]`, zeros for an empty set."""
    weight = mask.to(values.dtype)
    return (values * weight[..., None]).sum(1) / weight.sum(1).clamp(min=1)[:, None]


def membership(y: Tensor, mask: Tensor, n_classes: int) -> Tensor:
    """Which class each example belongs to, none for padding: y `[T, N]`, mask `[T, N]` -> floats `[T, N, C]`."""
    return (one_hot(y, n_classes) & mask[..., None]).float()


def class_mean(values: Tensor, member: Tensor) -> Tensor:
    """The mean of each class: values `[T, N, D]`, member `[T, N, C]` -> `[T, C, D]`, zeros for an absent class."""
    member = member.to(values.dtype)
    return member.transpose(1, 2) @ values / member.sum(1).clamp(min=1)[..., None]
