"""Layers of recurrent networks whose state has a fixed size, over a sequence at once or step by step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.nn.metric import exact

State = dict[str, Tensor]
Parts = dict[str, Tensor]
Convolve = Callable[["ShortConvolution"], Tensor]

TAPS = 4
"""Steps that a short convolution sees, its own included: the size in all four papers."""


class ShortConvolution(nn.Module):
    """A causal convolution over the last steps of each channel by itself, with the initial weights of `nn.Conv1d`.

    Args:
        channels: D.
        bias: whether it has one.
    """

    decayed = ("weight",)

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        bound = 1 / math.sqrt(TAPS)
        self.weight = nn.Parameter(torch.empty(TAPS, channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound)) if bias else None

    def forward(self, window: Tensor, x: Tensor) -> Tensor:
        """Over a sequence `[T, N, D]`, after the steps in `window [T, TAPS - 1, D]`."""
        n, whole = x.shape[1], torch.cat([window, x], dim=1)
        taps = [whole[:, i : i + n] * tap for i, tap in enumerate(self.weight)]
        return self._biased(sum(taps[1:], taps[0]))

    def each(self, window: Tensor, x: Tensor) -> Tensor:
        """Of M steps `[T, M, D]`, each of which comes right after the window."""
        return self._biased((window * self.weight[:-1]).sum(1, keepdim=True) + x * self.weight[-1])

    def _biased(self, total: Tensor) -> Tensor:
        return total if self.bias is None else total + self.bias


class RMSNorm(nn.Module):
    """Root mean square normalisation of the last axis in float32 at least (Zhang & Sennrich 2019), with learned gains.

    Args:
        size: of the last axis.
    """

    decayed = ()

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        x = exact(x)
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * self.weight


class Mixer(nn.Module, ABC):
    """A layer that mixes the steps of a sequence through a state of fixed size: `[T, N, D]` to `[T, N, D]`.

    A subclass sets `channels`, what its short convolutions see, and the functions below. It computes its `parts`, such
    as keys, values and gates, of a step's input and the convolutions; the recurrence is a function of these alone, in
    float32 at least, whatever the autocast.
    """

    decayed: ClassVar[tuple[str, ...]] = ()
    channels: int

    @abstractmethod
    def empty(self, like: Tensor) -> State:
        """The state of the recurrence before the first step."""

    @abstractmethod
    def seen(self, x: Tensor) -> tuple[Tensor, Parts]:
        """What the convolutions see of the inputs `[T, N, D]`: `[T, N, channels]`; and what else is made of them."""

    @abstractmethod
    def parts(self, convolve: Convolve, made: Parts) -> Parts:
        """What the recurrence and `output` read: from `made` by `seen`, and what `convolve` gives for a convolution."""

    @abstractmethod
    def silent(self, parts: Parts, real: Tensor) -> Parts:
        """The parts with nothing written, and nothing forgotten, by steps for which `real [T, 1, N]` is False."""

    @abstractmethod
    def recur(self, state: State, parts: Parts, real: Tensor) -> tuple[Tensor, State]:
        """The outputs `[T, H, N, V]` of a sequence and the state after it."""

    @abstractmethod
    def read(self, state: State, parts: Parts) -> Tensor:
        """The outputs `[T, H, M, V]` of M steps, each from the same state."""

    @abstractmethod
    def write(self, state: State, parts: Parts, real: Tensor) -> State:
        """The state after one step."""

    @abstractmethod
    def output(self, mixed: Tensor, parts: Parts) -> Tensor:
        """The layer's outputs `[T, N, D]`, from those of the recurrence `[T, N, H, V]`."""

    def start(self, like: Tensor) -> State:
        """The state before the first step, that of the recurrence and `window [T, TAPS - 1, channels]`."""
        like = exact(like)
        return {"window": like.new_zeros(len(like), TAPS - 1, self.channels), **self.empty(like)}

    def scan(self, state: State, x: Tensor, real: Tensor) -> tuple[Tensor, State]:
        """The outputs of a sequence `[T, N, D]` and the state after it; padding comes last in every task."""
        seen, made = self.seen(x)
        parts = self.parts(lambda convolution: convolution(state["window"], exact(seen)), made)
        with torch.autocast(x.device.type, enabled=False):
            quiet = self.silent(_exact(parts), real[:, None])
            mixed, after = self.recur(state, quiet, real)
            after |= {"window": _after(state["window"], exact(seen), real)}
        return self.output(mixed.transpose(1, 2), parts), after

    def step(self, state: State, x: Tensor) -> tuple[Tensor, tuple[Tensor, Parts]]:
        """The outputs of M steps `[T, M, D]`, each from the same state; and what `advance` needs."""
        seen, made = self.seen(x)
        parts = self.parts(lambda convolution: convolution.each(state["window"], exact(seen)), made)
        with torch.autocast(x.device.type, enabled=False):
            mixed = self.read(state, _exact(parts))
        return self.output(mixed.transpose(1, 2), parts), (seen, parts)

    def advance(self, state: State, taken: tuple[Tensor, Parts], real: Tensor) -> State:
        """The state after one step (M = 1), unchanged for tasks whose `real [T]` is False."""
        seen, parts = taken
        with torch.autocast(seen.device.type, enabled=False):
            quiet = self.silent(_exact(parts), real[:, None, None])
            after = self.write(state, quiet, real)
            return after | {"window": _after(state["window"], exact(seen), real[:, None])}


def heads(x: Tensor, size: int) -> Tensor:
    """`[T, N, H * size]` to `[T, H, N, size]`."""
    split: Tensor = x.unflatten(-1, (-1, size))
    return split.transpose(1, 2)


def log_uniform(n: int, low: float = 1e-3, high: float = 0.1) -> Tensor:
    """The inverse softplus of n numbers that are drawn log-uniformly: the bias of the step size in Mamba."""
    size = torch.exp(torch.rand(n) * math.log(high / low) + math.log(low))
    return size + torch.log(-torch.expm1(-size))


def step_decay(log_rate: Tensor, delta: Tensor) -> Tensor:
    """-e^log_rate delta: `[H]` and `[T, N, H]` to `[T, H, N]`."""
    return (-log_rate.exp() * delta).transpose(1, 2)


def step_size(x: Tensor, bias: Tensor) -> Tensor:
    """softplus(x + bias), in float32 at least."""
    size: Tensor = F.softplus(exact(x) + bias)
    return size


def _exact(parts: Parts) -> Parts:
    return {name: exact(part) for name, part in parts.items()}


def _after(window: Tensor, seen: Tensor, real: Tensor) -> Tensor:
    """The window after the real steps of a sequence."""
    last = real.sum(1)[:, None] + torch.arange(TAPS - 1, device=real.device)
    whole = torch.cat([window, seen], dim=1)
    return whole.take_along_dim(last[..., None], dim=1)
