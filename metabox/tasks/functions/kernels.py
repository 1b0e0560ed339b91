"""Covariance functions of Gaussian processes, for batches of tasks with different hyper-parameters.

On a CPU they are computed by numpy, on CUDA by torch: see `functions_of`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metabox.arrays import Floats
from metabox.config import Configured
from metabox.ranges import PositiveOrRange, ends
from metabox.seeding import Draws

Array = Any
"""An array of numpy, or a tensor on a device; in float64."""


def functions_of(array: Array) -> Any:
    """The module with `exp`, `sqrt` and `sin` for an array: numpy for numpy's own, torch for tensors."""
    return torch if isinstance(array, Tensor) else np


class Kernel(Configured, ABC):
    """k(x, x') = scale² times a correlation that is 1 at x = x'. Distances are Euclidean, with one length scale.

    Each hyper-parameter is a number, or a range [low, high] from which every task draws its own, uniformly.

    Args:
        **hyper: the hyper-parameters, all positive.

    Raises:
        ValueError: if a hyper-parameter is not positive.
    """

    def __init__(self, **hyper: PositiveOrRange) -> None:
        self.hyper = {name: ends(value) for name, value in hyper.items()}

    @abstractmethod
    def correlation(self, gap: Array, hyper: dict[str, Array]) -> Array:
        """At differences `gap [T, N, M, d]`, under hyper-parameters `[T, 1, 1]`: `[T, N, M]`.

        They are arrays of numpy or tensors, so take `exp` and the like from `functions_of(gap)`.
        """

    @property
    def fixed(self) -> bool:
        """Whether all tasks have the same hyper-parameters."""
        return all(low == high for low, high in self.hyper.values())

    def draw(self, draws: Draws, name: str) -> dict[str, Floats]:
        """Hyper-parameters of each task, each `[T]`."""
        return {key: draws.uniform(f"{name}/{key}", *ends) for key, ends in self.hyper.items()}

    def __call__(self, a: Array, b: Array, hyper: dict[str, Array]) -> Array:
        """Covariances of the function at `a [T, N, d]` and `b [T, M, d]`: `[T, N, M]`."""
        of_task = {name: value[:, None, None] for name, value in hyper.items()}
        return of_task["scale"] ** 2 * self.correlation(a[:, :, None] - b[:, None], of_task)


def _distance(gap: Array) -> Array:
    return functions_of(gap).sqrt((gap * gap).sum(-1))


class RBF(Kernel):
    """exp(-r²/2l²), the squared exponential or "EQ" kernel.

    Args:
        length_scale: l, or a range.
        scale: standard deviation of the function, or a range.
    """

    def __init__(self, length_scale: PositiveOrRange = 0.25, scale: PositiveOrRange = 1.0) -> None:
        super().__init__(length_scale=length_scale, scale=scale)

    def correlation(self, gap: Array, hyper: dict[str, Array]) -> Array:
        return functions_of(gap).exp(-0.5 * (gap * gap).sum(-1) / hyper["length_scale"] ** 2)


class Matern12(Kernel):
    """exp(-r/l), whose functions are continuous but nowhere differentiable (Ornstein-Uhlenbeck).

    Args:
        length_scale: l, or a range.
        scale: standard deviation of the function, or a range.
    """

    def __init__(self, length_scale: PositiveOrRange = 0.25, scale: PositiveOrRange = 1.0) -> None:
        super().__init__(length_scale=length_scale, scale=scale)

    def correlation(self, gap: Array, hyper: dict[str, Array]) -> Array:
        return functions_of(gap).exp(-_distance(gap) / hyper["length_scale"])


class Matern32(Kernel):
    """(1 + a) exp(-a), a = √3 r/l, whose functions have one derivative.

    Args:
        length_scale: l, or a range.
        scale: standard deviation of the function, or a range.
    """

    def __init__(self, length_scale: PositiveOrRange = 0.25, scale: PositiveOrRange = 1.0) -> None:
        super().__init__(length_scale=length_scale, scale=scale)

    def correlation(self, gap: Array, hyper: dict[str, Array]) -> Array:
        a = math.sqrt(3) * _distance(gap) / hyper["length_scale"]
        return (1 + a) * functions_of(gap).exp(-a)


class Matern52(Kernel):
    """(1 + a + a²/3) exp(-a), a = √5 r/l, whose functions have two derivatives.

    Args:
        length_scale: l, or a range.
        scale: standard deviation of the function, or a range.
    """

    def __init__(self, length_scale: PositiveOrRange = 0.25, scale: PositiveOrRange = 1.0) -> None:
        super().__init__(length_scale=length_scale, scale=scale)

    def correlation(self, gap: Array, hyper: dict[str, Array]) -> Array:
        a = math.sqrt(5) * _distance(gap) / hyper["length_scale"]
        return (1 + a + a * a / 3) * functions_of(gap).exp(-a)


class Periodic(Kernel):
    """exp(-2 Σ sin²(π (x_i - x'_i)/p)/l²): functions that repeat (MacKay 1998), in each dimension.

    Args:
        length_scale: l, or a range. It has no unit: it is relative to the circle onto which a period is wrapped.
        period: p, or a range.
        scale: standard deviation of the function, or a range.
    """

    def __init__(
        self, length_scale: PositiveOrRange = 1.0, period: PositiveOrRange = 0.25, scale: PositiveOrRange = 1.0
    ) -> None:
        super().__init__(length_scale=length_scale, period=period, scale=scale)

    def correlation(self, gap: Array, hyper: dict[str, Array]) -> Array:
        sine = functions_of(gap).sin(math.pi * gap / hyper["period"][..., None])
        return functions_of(gap).exp(-2 * (sine * sine).sum(-1) / hyper["length_scale"] ** 2)


class WeaklyPeriodic(Periodic):
    """Periodic times exp(-r²/2d²): the pattern changes from period to period.

    With these defaults it is the "weakly-periodic" kernel of Bruinsma's package neuralprocesses, at one input.

    Args:
        length_scale: of the periodic factor, or a range.
        period: p, or a range.
        decay: d, or a range.
        scale: standard deviation of the function, or a range.
    """

    def __init__(
        self,
        length_scale: PositiveOrRange = 1.0,
        period: PositiveOrRange = 0.25,
        decay: PositiveOrRange = 0.5,
        scale: PositiveOrRange = 1.0,
    ) -> None:
        Kernel.__init__(self, length_scale=length_scale, period=period, decay=decay, scale=scale)

    def correlation(self, gap: Array, hyper: dict[str, Array]) -> Array:
        fading = functions_of(gap).exp(-0.5 * (gap * gap).sum(-1) / hyper["decay"] ** 2)
        return fading * super().correlation(gap, hyper)
