"""Normalisation of images in a backbone, with statistics and FiLM parameters of the task."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn

from metabox.checks import checked
from metabox.ranges import Count

NormKind = Literal["batch", "support", "task", "transductive", "group"]

NORMS: dict[str, str] = {
    "none": "no normalisation over examples: no query influences another",
    "batch": "running statistics: no query influences another",
    "support": "statistics of each task's support: no query influences another",
    "task": "TaskNorm, each image's statistics mixed with its support's: no query influences another",
    "transductive": "TRANSDUCTIVE: statistics of all queries of a task together",
    "group": "group norm, each image by itself: no query influences another",
}
"""The description of each mode in results."""

MOMENTUM = 0.1


@dataclass
class Context:
    """Task statistics for the layers of a backbone, during one forward pass.

    known: by layer, FiLM parameters `film.NAME [T, 2, channels]`, and for queries what was measured on the support
    mask: `[T, N]` if the images are a support, None if they are queries
    measured: on the support: moments `norm.NAME [T, 2, channels]`, and with "task" numbers of images `count.NAME [T]`
    """

    known: dict[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    measured: dict[str, Tensor] = field(default_factory=dict)
    n_tasks: int = 1


class Norm(nn.Module):
    """One normalisation layer, then FiLM if the context has parameters for it (placed as in Requeima et al. 2019).

    * "batch" (Ioffe & Szegedy 2015): running statistics in evaluation; in training those of all images in the batch, of
      all tasks.
    * "support" (MetaBN of Bronskill et al. 2020, "TaskNorm"): support and queries by the moments of the task's support.
    * "task" (TaskNorm-I, there): these moments, m_s and v_s, pooled with those of the image itself, m_i and v_i:
      m = a m_s + (1 - a) m_i and v = a (v_s + (m_s - m)^2) + (1 - a) (v_i + (m_i - m)^2), where
      a = sigmoid(SCALE n + OFFSET) for a support of n images; SCALE and OFFSET are learned, and zero at first.
    * "transductive" (as in Finn et al. 2017): the support by its own moments, and the queries by theirs, including
      padding, so that queries influence each other.
    * "group" (Wu & He 2018): up to 32 groups of at least two channels.

    Moments are per channel. An empty support uses running ones, which "support", "task" and "transductive" keep only
    for this case. Except for SCALE and OFFSET, weights are interchangeable between all kinds but "group".

    Args:
        channels: of the images `[B, channels, height, width]`.
        kind: which statistics normalise the images.
        name: the key of this layer in a `Context`.
        gain: whether a learned factor of each channel follows; without one it stays 1, and only the shift is learned.
    """

    decayed = ()

    @checked
    def __init__(self, channels: Count, kind: NormKind, name: str, gain: bool = True) -> None:
        super().__init__()
        self.kind, self.name, self.channels = kind, name, channels
        self.norm: nn.GroupNorm | nn.BatchNorm2d
        if kind == "group":
            self.norm = nn.GroupNorm(max(1, math.gcd(64, channels) // 2), channels)
        else:
            self.norm = nn.BatchNorm2d(channels, momentum=MOMENTUM)
        self.norm.weight.requires_grad_(gain)
        if kind == "task":
            self.scale_offset = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x `[T * N, channels, height, width]`, the images of a task one after another."""
        x = self.norm(x) if self.kind in ("batch", "group") else self._by_task(x, context)
        film = context.known.get(f"film.{self.name}")
        if film is None:
            return x
        film = film.to(x.dtype).repeat_interleave(len(x) // context.n_tasks, dim=0)
        scale, shift = film[..., None, None].unbind(1)
        return x * (1 + scale) + shift

    def _by_task(self, x: Tensor, context: Context) -> Tensor:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        var, mean = torch.var_mean(exact, dim=(2, 3), correction=0)
        own = torch.stack([mean, var], dim=1).unflatten(0, (context.n_tasks, -1))  # [T, N, 2, channels]
        moments = self._of_task(own, context)[:, None].expand_as(own)
        if self.kind == "task":
            blend = self._blend(own, context)
            moments = pooled(torch.stack([moments, own], dim=2), torch.stack([blend, 1 - blend], dim=-1)[:, None])
        mean, var = moments.flatten(0, 1)[..., None, None].unbind(1)
        weight, bias = self.norm.weight[:, None, None], self.norm.bias[:, None, None]
        return ((exact - mean) * (var + self.norm.eps).rsqrt() * weight + bias).to(x.dtype)

    def _of_task(self, own: Tensor, context: Context) -> Tensor:
        """The moments of each task `[T, 2, channels]`, from those of its images `[T, N, 2, channels]`."""
        norm = cast(nn.BatchNorm2d, self.norm)
        running = torch.stack([cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)])
        if context.mask is None and self.kind != "transductive":
            return context.known.get(f"norm.{self.name}", running.expand(len(own), -1, -1))
        valid = torch.ones_like(own[:, :, 0, 0]) if context.mask is None else context.mask.to(own.dtype)
        count = valid.sum(1)
        moments = pooled(own, valid / count.clamp(min=1)[:, None])
        moments = torch.where(count[:, None, None] > 0, moments, running)
        if self.kind != "transductive":
            context.measured[f"norm.{self.name}"] = moments
        if self.kind == "task":
            context.measured[f"count.{self.name}"] = count
        if self.training:
            with torch.no_grad():
                total = valid.sum()
                now = pooled(own.flatten(0, 1), valid.flatten() / total.clamp(min=1))
                running.lerp_(torch.where(total > 0, now, running), MOMENTUM)
                cast(Tensor, norm.running_mean).copy_(running[0])
                cast(Tensor, norm.running_var).copy_(running[1])
        return moments

    def _blend(self, own: Tensor, context: Context) -> Tensor:
        """The share `[T]` of the support's moments."""
        count = (context.known if context.mask is None else context.measured).get(f"count.{self.name}")
        count = own.new_zeros(len(own)) if count is None else count
        scale, offset = self.scale_offset
        share: Tensor = (scale * count + offset).sigmoid()
        return share

    def extra_repr(self) -> str:
        return f"{self.channels}, kind={self.kind!r}"


def transductive(module: nn.Module) -> bool:
    """Whether a module has a layer that normalises the queries of a task together."""
    return any(isinstance(part, Norm) and part.kind == "transductive" for part in module.modules())


def pooled(moments: Tensor, weight: Tensor) -> Tensor:
    """Mean and variance `[..., K, 2, channels]` of K parts with weights `[..., K]` (sum 1): `[..., 2, channels]`."""
    mean, var = moments.unbind(-2)
    together = (weight[..., None] * mean).sum(-2)
    spread = var + (mean - together[..., None, :]).square()
    return torch.stack([together, (weight[..., None] * spread).sum(-2)], dim=-2)
