"""Normalisation of images in a backbone, and what it may know of the task: statistics and FiLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

NormKind = Literal["batch", "support", "task", "transductive", "group"]

NORMS: dict[str, str] = {
    "none": "no normalisation over examples: no query influences another",
    "batch": "running statistics: no query influences another",
    "support": "statistics of each task's support: no query influences another",
    "task": "TaskNorm, each image's statistics mixed with its support's: no query influences another",
    "transductive": "TRANSDUCTIVE: statistics of all queries of a task together",
    "group": "group norm, each image by itself: no query influences another",
}
"""What a result has to say of each mode."""


@dataclass
class Context:
    """What the layers of a backbone know of the tasks while their images pass through.

    known: by layer, `film.NAME [T, 2, channels]` and, after the support has passed, `norm.NAME [T, 2, channels]`
    mask: `[T, N]` where the images are a support, None where they are queries
    measured: what the layers found out about the support
    """

    known: dict[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    measured: dict[str, Tensor] = field(default_factory=dict)
    n_tasks: int = 1


class Norm(nn.Module):
    """One normalisation layer, then FiLM where the context has some for it (as Requeima et al. 2019 place it).

    Args:
        channels: of the images `[B, channels, height, width]`.
        kind: "batch": running statistics in evaluation (Ioffe & Szegedy 2015), those of all tasks' images together
            in training. "support": each task by the statistics of its support (metaBN; Bronskill et al. 2020,
            section 3.3). "task": TaskNorm-I (there, equations 8 and 9). "transductive": support and queries each
            by their own statistics, as in Finn et al. 2017: queries see each other. "group": Wu & He 2018.
        name: the key of this layer in a `Context`.
    """

    def __init__(self, channels: int, kind: NormKind, name: str) -> None:
        super().__init__()
        if kind not in get_args(NormKind):
            raise ValueError(f"expected a normalisation among {get_args(NormKind)}, got {kind!r}")
        self.kind, self.name, self.channels = kind, name, channels
        self.norm: nn.Module
        if kind == "group":
            self.norm = nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)
        else:
            self.norm = nn.BatchNorm2d(channels)
        if kind == "task":  # alpha = sigmoid(scale * |D_tr| + offset)
            self.alpha = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = self.norm(x) if self.kind in ("batch", "group") else self._per_task(x, context)
        film = context.known.get(f"film.{self.name}")
        if film is None:
            return x
        scale, shift = _per_image(film.to(x.dtype), x, context).unbind(1)
        return x * (1 + scale) + shift

    def _per_task(self, x: Tensor, context: Context) -> Tensor:
        """x `[T * N, channels, height, width]`, by statistics `[T, 2, channels]` of each task."""
        assert isinstance(self.norm, nn.BatchNorm2d)
        images = x.float().unflatten(0, (context.n_tasks, -1))
        if self.kind == "transductive" or context.mask is not None:
            statistics = self._measure(images, context.mask)
            if self.kind != "transductive":
                count = torch.zeros(len(images)) if context.mask is None else context.mask.sum(1)
                context.measured[f"norm.{self.name}"] = statistics
                context.measured[f"count.{self.name}"] = count.float()
        else:
            statistics = context.known.get(f"norm.{self.name}", self._running(len(images)))
        mean, var = _per_image(statistics, x, context).unbind(1)
        if self.kind == "task":
            count = context.mask.sum(1).float() if context.mask is not None else context.known.get(f"count.{self.name}")
            count = x.new_zeros(len(images), dtype=torch.float32) if count is None else count
            alpha = (self.alpha[0] * count + self.alpha[1]).sigmoid().repeat_interleave(images.shape[1])
            alpha = alpha[:, None, None, None]
            own_mean, own_var = x.float().mean((2, 3), keepdim=True), x.float().var((2, 3), False, keepdim=True)
            mixed = alpha * mean + (1 - alpha) * own_mean
            var = alpha * (var + (mean - mixed) ** 2) + (1 - alpha) * (own_var + (own_mean - mixed) ** 2)
            mean = mixed
        x = (x - mean) * torch.rsqrt(var + self.norm.eps)
        return x * self.norm.weight[:, None, None] + self.norm.bias[:, None, None]

    def _measure(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """Mean and variance of each task's valid images `[T, N, channels, ...]`: `[T, 2, channels]`."""
        assert isinstance(self.norm, nn.BatchNorm2d)
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        valid = images.new_ones(images.shape[:2]) if mask is None else mask.to(images.dtype)
        weight = (valid / valid.sum(1, keepdim=True).clamp(min=1))[:, :, None]
        mean = (images.mean((3, 4)) * weight).sum(1)
        var = ((images - mean[:, None, :, None, None]).square().mean((3, 4)) * weight).sum(1)
        some = valid.any(1)[:, None]
        if self.training:
            with torch.no_grad():  # for tasks without a support
                self.norm.running_mean.lerp_(mean.mean(0), self.norm.momentum or 0.1)
                self.norm.running_var.lerp_(var.mean(0), self.norm.momentum or 0.1)
        return torch.where(some[..., None], torch.stack([mean, var], 1), self._running(len(images)))

    def _running(self, n_tasks: int) -> Tensor:
        assert isinstance(self.norm, nn.BatchNorm2d)
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        return torch.stack([self.norm.running_mean, self.norm.running_var]).clone().expand(n_tasks, -1, -1)


def _per_image(values: Tensor, x: Tensor, context: Context) -> Tensor:
    """One row for each image: `[T, 2, channels]` -> `[T * N, 2, channels, 1, 1]`."""
    return values.repeat_interleave(len(x) // context.n_tasks, dim=0)[..., None, None]
