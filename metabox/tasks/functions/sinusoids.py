"""Families of functions of one or a few inputs: sinusoids, harmonics, sawtooths, steps."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np

from metabox.arrays import Floats
from metabox.episodes import Split
from metabox.ranges import Count, CountOrRange, NaturalOrRange, NotNegative, PositiveOrRange, Real, RealOrRange, ends
from metabox.seeding import Draws
from metabox.targets import Reals, TaskSpec
from metabox.tasks.functions.base import FunctionTasks


class NoisyFunctions(FunctionTasks):
    """Functions of inputs that are uniform in [low, high]^dim, with normal noise on y."""

    def __init__(self, low: Real, high: Real, noise: NotNegative, dim: Count, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not low < high:
            raise ValueError(f"expected low < high, got low {low} and high {high}")
        self.low, self.high = low, high
        self.noise = noise
        self.spec = TaskSpec(x_shape=(dim,), target=Reals(1))

    @abstractmethod
    def values(self, draws: Draws, x: Floats) -> Floats:
        """f(x): `[T, n, dim] -> [T, n]`."""

    def inputs(self, draws: Draws, n: int) -> Floats:
        return draws.uniform("x", self.low, self.high, n, *self.spec.x_shape)

    def targets(self, draws: Draws, x: Floats, split: Split) -> tuple[Floats, None]:
        return _noisy(self.values(draws, x), self.noise, draws)[..., None], None


def _noisy(y: Floats, noise: float, draws: Draws) -> Floats:
    return y + noise * draws.normal("noise", y.shape[1]) if noise else y


class Sinusoids(NoisyFunctions):
    """y = a sin(x - b), with amplitude a and phase b drawn for each task (Finn et al. 2017, section 5.1).

    Finn et al. train with 10 support and 10 query points, and test with 5, 10 and 20 support points.

    Args:
        amplitude: a, or the range to draw it from.
        phase: b, or a range.
        low: least input.
        high: largest input.
        noise: standard deviation of noise on y; none in the paper.
        n_support: support points, or a range.
        n_query: query points, or a range.
        **kwargs: max_points and share_sizes of `FunctionTasks`.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        amplitude: RealOrRange = (0.1, 5.0),
        phase: RealOrRange = (0.0, math.pi),
        low: Real = -5.0,
        high: Real = 5.0,
        noise: NotNegative = 0.0,
        n_support: NaturalOrRange = 10,
        n_query: CountOrRange = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(low, high, noise, 1, n_support=n_support, n_query=n_query, **kwargs)
        self.amplitude = ends(amplitude)
        self.phase = ends(phase)

    def values(self, draws: Draws, x: Floats) -> Floats:
        amplitude, phase = draws.uniform("amplitude", *self.amplitude, 1), draws.uniform("phase", *self.phase, 1)
        return amplitude * np.sin(x[..., 0] - phase)


class Harmonics(FunctionTasks):
    """y = a₁ sin(wx + b₁) + a₂ sin(2wx + b₂), at inputs x ~ N(m, 1) (Lacoste et al. 2018).

    "Uncertainty in multitask transfer learning", as in torchmeta's `Harmonic`: w is uniform in [5, 7], b₁ and b₂ in
    [0, 2π], a₁ and a₂ are standard normal, and so are the inputs around a centre m of the task, uniform in [-4, 4].

    Args:
        frequency: w, or the range to draw it from.
        centre: m, or a range.
        noise: standard deviation of noise on y.
        n_support: support points, or a range.
        n_query: query points, or a range.
        **kwargs: max_points and share_sizes of `FunctionTasks`.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        frequency: RealOrRange = (5.0, 7.0),
        centre: RealOrRange = (-4.0, 4.0),
        noise: NotNegative = 0.0,
        n_support: NaturalOrRange = 10,
        n_query: CountOrRange = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(n_support, n_query, **kwargs)
        self.frequency = ends(frequency)
        self.centre = ends(centre)
        self.noise = noise
        self.spec = TaskSpec(x_shape=(1,), target=Reals(1))

    def inputs(self, draws: Draws, n: int) -> Floats:
        return draws.uniform("centre", *self.centre, 1, 1) + draws.normal("x", n, 1)

    def targets(self, draws: Draws, x: Floats, split: Split) -> tuple[Floats, None]:
        angle = draws.uniform("frequency", *self.frequency, 1) * x[..., 0]
        phase, amplitude = draws.uniform("phase", 0, 2 * np.pi, 2, 1), draws.normal("amplitude", 2, 1)
        y = amplitude[:, 0] * np.sin(angle + phase[:, 0]) + amplitude[:, 1] * np.sin(2 * angle + phase[:, 1])
        return _noisy(y, self.noise, draws)[..., None], None


class Sawtooth(NoisyFunctions):
    """y = (w (u·x - s)) mod 1, with frequency w, direction u and offset s drawn for each task.

    As in Bruinsma's package neuralprocesses (after Gordon et al. 2020, "Convolutional conditional neural processes",
    whose sawtooth is a truncated Fourier series): u is a random unit vector, s uniform in [0, 1/w]. Its predefined 1-D
    task has frequency [2, 4], n_support [0, 30], n_query 100, share_sizes 16.

    Args:
        frequency: w, or the range to draw it from.
        dim: number of inputs.
        low: least value of an input.
        high: largest value of an input.
        noise: standard deviation of noise on y.
        n_support: support points, or a range.
        n_query: query points, or a range.
        **kwargs: max_points and share_sizes of `FunctionTasks`.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        frequency: PositiveOrRange = (3.0, 5.0),
        dim: Count = 1,
        low: Real = -2.0,
        high: Real = 2.0,
        noise: NotNegative = 0.0,
        n_support: NaturalOrRange = (0, 30),
        n_query: CountOrRange = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(low, high, noise, dim, n_support=n_support, n_query=n_query, **kwargs)
        self.frequency = ends(frequency)

    def values(self, draws: Draws, x: Floats) -> Floats:
        direction = draws.normal("direction", 1, x.shape[2])
        direction /= np.sqrt((direction * direction).sum(-1, keepdims=True))
        along: Floats = (x * direction).sum(-1)
        # w (u·x - s), where ws is uniform in [0, 1]
        return (draws.uniform("frequency", *self.frequency, 1) * along - draws.uniform("offset", 0, 1, 1)) % 1


class Steps(NoisyFunctions):
    """Piecewise constant functions: jumps at uniform places, standard normal levels between them.

    The definition is our own: functions without smoothness, the opposite of Gaussian processes.

    Args:
        n_steps: jumps of a function, or the range to draw their number from.
        low: least input.
        high: largest input.
        noise: standard deviation of noise on y.
        n_support: support points, or a range.
        n_query: query points, or a range.
        **kwargs: max_points and share_sizes of `FunctionTasks`.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        n_steps: NaturalOrRange = (1, 5),
        low: Real = -2.0,
        high: Real = 2.0,
        noise: NotNegative = 0.0,
        n_support: NaturalOrRange = (3, 30),
        n_query: CountOrRange = 50,
        **kwargs: Any,
    ) -> None:
        super().__init__(low, high, noise, 1, n_support=n_support, n_query=n_query, **kwargs)
        self.n_steps = ends(n_steps)

    def values(self, draws: Draws, x: Floats) -> Floats:
        most = self.n_steps[1]
        absent = np.arange(most) >= draws.integers("steps", *self.n_steps, 1)
        place = np.where(absent, np.inf, draws.uniform("place", self.low, self.high, most))
        passed = (x > place[:, None]).sum(-1)  # jumps to the left of x, which is [T, n, 1]
        return np.take_along_axis(draws.normal("level", most + 1), passed, axis=1)
