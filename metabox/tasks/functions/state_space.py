"""Linear-Gaussian state-space models: what a recurrent learner does, beside the best that anything could do."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from metabox.arrays import Floats, Integers
from metabox.episodes import Split
from metabox.ranges import (
    BelowOne,
    Between,
    Count,
    NaturalOrRange,
    Positive,
    PositiveOrRange,
    Whole,
    Within,
    ends,
)
from metabox.seeding import Draws
from metabox.targets import Reals, TaskSpec
from metabox.tasks.functions.base import FunctionTasks
from metabox.tasks.functions.gaussian_process import log_sum_exp
from metabox.tasks.place import Place

CHUNK = 1 << 22  # numbers in memory at once: tasks times systems times points
Size = Annotated[int, Within(least=1, most=8)]  # equations of d^2 unknowns are solved


class Systems(NamedTuple):
    """S systems z_t = A z_{t-1} + b u_t + q w_t, y_t = c.z_t + r v_t, with normal w and v, and z_0 stationary."""

    a: Floats  # [S, d, d]
    b: Floats  # [S, d]
    c: Floats  # [S, d]
    q: Floats  # [S]
    r: Floats  # [S]
    covariance: Floats  # of z_0, [S, d, d]

    def at(self, chosen: Any) -> Systems:
        return Systems(*(part[chosen] for part in self))


class KalmanFiltering(FunctionTasks):
    """Sequences of a linear-Gaussian state-space model; the query is the next step.

    A system is z_t = A z_{t-1} + b u_t + q w_t and y_t = c.z_t + r v_t, with w_t and v_t standard normal. x_t is the
    input u_t, standard normal, or 1 if there are no inputs (b = 0). The entries of A are normal, scaled to a spectral
    radius that is drawn; those of b and c are normal, with c scaled so that c.z_t has variance 1. Sequences begin in
    the stationary distribution, with inputs that were not seen. The support is in the order of time: use a learner that
    is `ordered`, and train it with `StreamLoss`.

    There are two references, in float64. The Kalman filter of the task's own system ("known") is a bound that nobody
    reaches who has to infer the system. The best predictor without that knowledge ("bayes") averages the Kalman filters
    of all systems of the family, weighted by the likelihood that each gives the support. Without a family it averages
    those of `prior_draws` systems, with a Monte Carlo error that `references` returns.

    The definition is our own.

    Args:
        hidden: size of z, at most 8, or a range.
        noise: r, or a range: the noise of an observation, beside a signal of variance 1.
        process: q, beside a b whose entries have variance 1.
        radius: spectral radius of A, a range.
        inputs: whether there are inputs u_t.
        family: number of systems that the tasks of all splits are drawn from; None for a fresh one for each task.
        family_seed: another seed gives another family, and other draws of the prior.
        prior_draws: systems that the average is over if there is no family.
        oracle: what `oracle` of an episode is: "bayes", "known", or "none".
        train_oracle: whether training tasks have an oracle too; training does not read it, and it takes time.
        n_support: steps before the query, or a range.
        share_sizes: this many consecutive tasks have the same number of steps.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        hidden: Size | Between[Size] = 2,
        noise: PositiveOrRange = 0.3,
        process: Positive = 0.5,
        radius: Between[BelowOne] = (0.5, 0.95),
        inputs: bool = True,
        family: Count | None = 16,
        family_seed: Whole = 0,
        prior_draws: Count = 1000,
        oracle: Literal["bayes", "known", "none"] = "bayes",
        train_oracle: bool = False,
        n_support: NaturalOrRange = 50,
        share_sizes: Count = 1,
    ) -> None:
        super().__init__(n_support=n_support, n_query=1, share_sizes=share_sizes)
        self.hidden, self.noise, self.process, self.radius = ends(hidden), ends(noise), process, radius
        self.with_inputs, self.family, self.family_seed, self.prior_draws = inputs, family, family_seed, prior_draws
        self.oracle, self.train_oracle = oracle, train_oracle
        self.spec = TaskSpec(x_shape=(1,), target=Reals(1))

    def systems(self, draws: Draws) -> Systems:
        """A system for each of the draws."""
        (low, d), n = self.hidden, len(draws.tasks)
        there = np.arange(d) < draws.integers("hidden", low, d, 1)
        a = draws.normal("A", d, d) * there[:, :, None] * there[:, None, :]
        a *= (draws.uniform("radius", *self.radius, 1) / np.abs(np.linalg.eigvals(a)).max(1, keepdims=True))[..., None]
        b = draws.normal("b", d) * there * self.with_inputs
        q, r = np.full(n, self.process), np.exp(draws.uniform("noise", *np.log(self.noise), 1))[:, 0]
        # S = A S A' + b b' + q^2 I
        drive = b[:, :, None] * b[:, None, :] + (q * q)[:, None, None] * np.eye(d)
        twice = np.eye(d * d) - (a[:, :, None, :, None] * a[:, None, :, None, :]).reshape(n, d * d, d * d)
        covariance = np.linalg.solve(twice, drive.reshape(n, d * d, 1)).reshape(n, d, d)
        c = draws.normal("c", d) * there
        c /= np.sqrt((c[:, None] @ covariance @ c[:, :, None])[:, :, 0])
        return Systems(a, b, c, q, r, covariance)

    @cached_property
    def prior(self) -> Systems:
        """The systems of the family, or draws of the prior if there is none."""
        return self.systems(Draws("family", self.family_seed, n_tasks=self.family or self.prior_draws))

    def inputs(self, draws: Draws, n: int) -> Floats:
        return draws.normal("u", n, 1) if self.with_inputs else np.ones((len(draws.tasks), n, 1))

    def targets(self, draws: Draws, x: Floats, split: Split) -> tuple[Floats, Systems | None]:
        if self.family is None:
            own = self.systems(draws)
        else:
            own = self.prior.at(draws.integers("system", 0, self.family - 1))
        u, w, v = x[..., 0], draws.normal("w", x.shape[1], own.b.shape[1]), draws.normal("v", x.shape[1])
        z = (np.linalg.cholesky(own.covariance) @ draws.normal("z", own.b.shape[1])[..., None])[..., 0]
        y = np.empty_like(u)
        for t in range(x.shape[1]):
            z = (own.a @ z[..., None])[..., 0] + own.b * u[:, t, None] + own.q[:, None] * w[:, t]
            y[:, t] = (own.c * z).sum(1) + own.r * v[:, t]
        return y[..., None], own if split != "train" or self.train_oracle else None

    def score(self, x: Floats, y: Floats, known: Any, n_support: Integers, n_query: Integers) -> Floats | None:
        if known is None or self.oracle == "none":
            return None
        if self.oracle == "known":
            steps = log_likelihoods(known, x[..., 0], y[..., 0], paired=True)
        else:
            steps, _ = bayes(self.prior, x[..., 0], y[..., 0])
        best: Floats = np.take_along_axis(steps, n_support[:, None], 1)[:, 0]
        return best

    def references(self, place: Place) -> dict[str, Floats]:
        """log p of every step given those before it, `[T, n_support + 1]`, of the tasks at a place.

        Returns:
            "known", by the Kalman filter of each task's own system; "bayes", by the best predictor without it; and
            "bayes_error", the Monte Carlo standard error of the latter, zeros if there is a family. Steps after a
            task's query are those that it would go on with.
        """
        draws = place.draws(type(self).__name__)
        x = self.inputs(draws, self.n_points).astype(np.float32).astype(np.float64)
        y, own = self._all(draws, x)
        u, y = x[..., 0], y[..., 0].astype(np.float32).astype(np.float64)
        best, error = bayes(self.prior, u, y)
        error = error if self.family is None else np.zeros_like(error)
        return {"known": log_likelihoods(own, u, y, paired=True), "bayes": best, "bayes_error": error}

    def _all(self, draws: Draws, x: Floats) -> tuple[Floats, Systems]:
        y, own = self.targets(draws, x, "test")  # the draws are of the place: the split only says what is returned
        assert own is not None
        return y, own


def log_likelihoods(systems: Systems, u: Floats, y: Floats, paired: bool = False) -> Floats:
    """log p(y_t | y_1 ... y_{t-1}, u_1 ... u_t) by the Kalman filter: `[T, S, n]`, or `[T, n]` if they are `paired`.

    Args:
        systems: S systems.
        u: inputs `[T, n]`.
        y: observations `[T, n]`.
        paired: whether task t is of system t; else every task is filtered by every system.
    """
    a, b, c, q, r, p = systems
    u, y = (part[None] if paired else part[:, None] for part in (u, y))  # [1 or T, S or 1, n]
    mean, noise = np.zeros((max(len(u), 1), *b.shape)), (q * q)[:, None, None] * np.eye(b.shape[1])
    found = np.empty((len(u), len(b), u.shape[-1]))
    for t in range(u.shape[-1]):
        # Predict. No covariance depends on y, so all tasks share those of a system.
        mean = (a @ mean[..., None])[..., 0] + b * u[..., t, None]
        p = a @ p @ a.transpose(0, 2, 1) + noise
        pc = (p @ c[..., None])[..., 0]
        s = (c * pc).sum(-1) + r * r
        wrong = y[..., t] - (c * mean).sum(-1)
        found[..., t] = -0.5 * (np.log(2 * np.pi * s) + wrong * wrong / s)
        # Update
        gain = pc / s[:, None]
        mean = mean + gain * wrong[..., None]
        p = p - gain[:, :, None] * pc[:, None, :]
    return found[0] if paired else found


def bayes(systems: Systems, u: Floats, y: Floats) -> tuple[Floats, Floats]:
    """log p(y_t | y_1 ... y_{t-1}, u_1 ... u_t) for a system among S equally likely ones, `[T, n]`.

    And its standard error as an estimate of the same for the distribution that the systems were drawn from. An estimate
    from few draws is low: systems near the true one may be missing.
    """
    n_systems, n = len(systems.b), u.shape[1]
    parts, size = [], max(1, CHUNK // (n_systems * n))
    for i in range(0, len(u), size):
        each = log_likelihoods(systems, u[i : i + size], y[i : i + size])  # [T, S, n]
        weight = np.cumsum(each, -1) - each
        weight = weight - log_sum_exp(weight, 1)[:, None]
        best = log_sum_exp(weight + each, 1)
        # The ratio of two means over draws, by the delta method
        relative = np.exp(each - best[:, None]) - 1
        parts.append((best, np.sqrt((np.exp(2 * weight) * relative * relative).sum(1))))
    return np.concatenate([best for best, _ in parts]), np.concatenate([error for _, error in parts])
