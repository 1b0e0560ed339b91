"""Several targets of one input, with known ground truth: two related regressions, and what viewers do with videos."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated

import numpy as np

from metabox.arrays import Floats
from metabox.episodes import Split
from metabox.ranges import Count, Natural, Positive, TwoOrMore, Whole, Within
from metabox.seeding import Draws
from metabox.targets import Binary, Part, Parts, Reals, TaskSpec
from metabox.tasks.multitask.endless import EndlessTask

Correlation = Annotated[float, Within(least=-1, most=1)]


class ManyTargets(EndlessTask):
    """Endless examples of one p(x, y), whose y has several named parts, and whose p(y|x) is known.

    Args:
        n_query: examples in a row of the batch.
        correlation: p, the cosine of the angle between the weights of two groups of targets.
        data_seed: another seed gives another p(x, y). The seed of training does not change it, so that all runs share
            the data.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(self, n_query: Count, correlation: Correlation, data_seed: Whole) -> None:
        super().__init__(n_query)
        self.correlation, self.data_seed = correlation, data_seed

    @abstractmethod
    def draw(self, draws: Draws, split: Split) -> tuple[Floats, Floats, Floats]:
        """Inputs `[T, M, dx]`, targets and log p(y|x) of each, both `[T, M, K]`, NaN if missing."""


def related_weights(dim: int, correlation: float, seed: int) -> Floats:
    """Two unit vectors at an angle of cosine p: u₁ and p u₁ + √(1 - p²) u₂, u₂ ⊥ u₁ (Ma et al. 2018, section 3.2)."""
    u1, u2 = Draws("related weights", seed, n_tasks=1).normal("u", 2, dim)[0]
    u1 /= np.sqrt(u1 @ u1)
    u2 -= (u2 @ u1) * u1
    u2 /= np.sqrt(u2 @ u2)
    return np.stack([u1, correlation * u1 + math.sqrt(1 - correlation**2) * u2])


def log_normal(y: Floats, mean: Floats, scale: float) -> Floats:
    return -0.5 * ((y - mean) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)


class CorrelatedRegressions(ManyTargets):
    """Two regressions of the same x with adjustable relatedness (Ma et al. 2018, section 3.2).

    "Modeling task relationships in multi-task learning with multi-gate mixture-of-experts":
    y_k = w_kᵀx + Σᵢ sin(αᵢ w_kᵀx + βᵢ) + ε, with w₁ = c u₁, w₂ = c (p u₁ + √(1 - p²) u₂) for orthogonal unit vectors
    u₁ and u₂, x ~ N(0, I) and ε ~ N(0, 0.01). At p = 1 the two have the same mean, at p = 0 nothing in common but the
    sines. p is the cosine of the weights; the correlation of the targets increases with it.

    Deviations: the paper says neither how αᵢ and βᵢ are chosen nor what c is. Here αᵢ is standard normal and βᵢ uniform
    in [0, 2π], drawn by `data_seed`, and c is 1.

    Args:
        correlation: p.
        dim: number of inputs.
        sines: how many sines are added.
        scale: c.
        noise: standard deviation of ε; 0.01 is read as its variance.
        n_query: examples in a row of the batch.
        data_seed: seed of u₁, u₂, αᵢ and βᵢ.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        correlation: Correlation = 0.5,
        dim: TwoOrMore = 100,
        sines: Natural = 4,
        scale: Positive = 1.0,
        noise: Positive = 0.1,
        n_query: Count = 64,
        data_seed: Whole = 0,
    ) -> None:
        super().__init__(n_query, correlation, data_seed)
        self.dim, self.sines, self.scale, self.noise = dim, sines, scale, noise
        parts = tuple(Part(f"target_{k}", Reals(1)) for k in (1, 2))
        self.spec = TaskSpec(x_shape=(dim,), target=Parts(parts))
        self._weights = scale * related_weights(dim, correlation, data_seed)
        shape = Draws("sines", data_seed, n_tasks=1)
        self._alpha, self._beta = shape.normal("alpha", sines)[0], shape.uniform("beta", 0, 2 * math.pi, sines)[0]

    def means(self, x: Floats) -> Floats:
        """E[y|x] of both targets: `[T, M, dim] -> [T, M, 2]`."""
        along = x @ self._weights.T
        means: Floats = along + np.sin(along[..., None] * self._alpha + self._beta).sum(-1)
        return means

    def draw(self, draws: Draws, split: Split) -> tuple[Floats, Floats, Floats]:
        x = draws.normal("x", self.n_query, self.dim)
        mean = self.means(x)
        y = mean + self.noise * draws.normal("noise", self.n_query, 2)
        return x, y, log_normal(y, mean, self.noise)


class Viewers(ManyTargets):
    """What viewers do with videos: engagement and satisfaction, in the shape of Zhao et al. 2019.

    "Recommending what video to watch next: a multitask ranking system" has heads of two groups. Engagement: is the
    video clicked (yes or no), and for how long is it watched (a real number); satisfaction: is it liked (yes or no),
    and how is it rated (a real number). Only a clicked video is watched and can be liked, and only some of those are
    rated: labels are missing, and are NaN.

    x is a viewer's tastes and a video's traits side by side, all standard normal.

    Deviations: the data in the paper are private; these are synthetic, with known probabilities. The position at which
    a video was shown (the selection bias in the paper) is not modelled.

    Args:
        correlation: p, the cosine of the weights of engagement and satisfaction; 1: the same, -1: opposites.
        traits: number of traits of a video; x has twice as many numbers.
        rated: the share of the clicked videos that are rated.
        noise: standard deviation of watching time and rating.
        n_query: examples in a row of the batch.
        data_seed: seed of the weights of engagement and satisfaction.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        correlation: Correlation = 0.5,
        traits: TwoOrMore = 8,
        rated: Annotated[float, Within(above=0, most=1)] = 0.2,
        noise: Positive = 0.5,
        n_query: Count = 64,
        data_seed: Whole = 0,
    ) -> None:
        super().__init__(n_query, correlation, data_seed)
        self.traits, self.rated, self.noise = traits, rated, noise
        engagement = Part("clicked", Binary(1)), Part("watched", Reals(1))
        satisfaction = Part("liked", Binary(1)), Part("rating", Reals(1))
        parts = (*engagement, *satisfaction)
        self.spec = TaskSpec(x_shape=(2 * traits,), target=Parts(parts))
        self._weights = related_weights(traits, correlation, data_seed)

    def appeals(self, x: Floats) -> Floats:
        """How engaging and satisfying videos are, `[T, M, 2 traits] -> [T, M, 2]`: weighted sums of taste times trait.

        Each has mean 0 and variance 1 over viewers and videos, and p is their correlation.
        """
        taste, trait = x[..., : self.traits], x[..., self.traits :]
        appeals: Floats = (taste * trait) @ self._weights.T
        return appeals

    def draw(self, draws: Draws, split: Split) -> tuple[Floats, Floats, Floats]:
        m = self.n_query
        x = draws.normal("x", m, 2 * self.traits)
        engaging, satisfying = np.moveaxis(self.appeals(x), -1, 0)
        chance = 1 / (1 + np.exp(-2 * np.stack([engaging, satisfying], -1)))
        yes = draws.uniform("yes", 0, 1, m, 2) < chance
        log_yes = np.log(np.where(yes, chance, 1 - chance))
        mean = np.stack([engaging, satisfying], -1)
        amount = mean + self.noise * draws.normal("noise", m, 2)
        log_amount = log_normal(amount, mean, self.noise)
        clicked, rated = yes[..., 0], draws.uniform("rated", 0, 1, m) < self.rated
        seen = np.stack([np.ones_like(clicked), clicked, clicked, clicked & rated], -1)
        y = np.stack([yes[..., 0], amount[..., 0], yes[..., 1], amount[..., 1]], -1)
        log_p = np.stack([log_yes[..., 0], log_amount[..., 0], log_yes[..., 1], log_amount[..., 1]], -1)
        return x, np.where(seen, y, np.nan), np.where(seen, log_p, np.nan)
