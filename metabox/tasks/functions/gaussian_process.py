"""Functions drawn from Gaussian processes, with their exact predictive likelihood."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabox.arrays import Floats, Integers
from metabox.episodes import Device, Episodes, Examples, Split, moved
from metabox.ranges import Count, CountOrRange, NaturalOrRange, NotNegativeOrRange, Real, ends
from metabox.seeding import Draws
from metabox.targets import Reals, TaskSpec
from metabox.tasks.functions.base import FunctionTasks
from metabox.tasks.functions.kernels import RBF, Kernel
from metabox.tasks.place import Place

JITTER = 1e-8  # least noise variance, as a share of the function's: keeps the Cholesky factor real in float64


class Conditioned(NamedTuple):
    """Log densities of Gaussian targets `[T, n]`, of which the first n_support are observed, in nats."""

    evidence: Floats  # log p(y of the support) [T]
    each: Floats  # log p(y_i | support) [T, n], 0 outside the query
    joint: Floats  # log p(y of the query | support) [T]


def condition(factor: Floats, y: Floats, n_support: Integers, n_query: Integers) -> Conditioned:
    """Log densities of y `[T, n]` (support, query, others) by a Cholesky factor `[T, n, n]` of its covariance.

    With y = L w, w holds the innovations: y_i is normal given the points before it, with standard deviation L_ii.
    The mean of a query given the support is the part of L w that comes from the support's innovations.
    """
    lower = torch.from_numpy(factor)
    w = torch.linalg.solve_triangular(lower, torch.from_numpy(y)[..., None], upper=False)[..., 0].numpy()
    place, n = np.arange(y.shape[1]), n_support[:, None]
    seen, asked = place < n, (place >= n) & (place < n + n_query[:, None])
    given_earlier = -0.5 * w * w - np.log(np.diagonal(factor, axis1=1, axis2=2)) - 0.5 * math.log(2 * math.pi)
    mean = (factor * (w * seen)[:, None]).sum(-1)
    variance = np.where(asked, (factor * factor * ~seen[:, None]).sum(-1), 1.0)
    each = -0.5 * (y - mean) ** 2 / variance - 0.5 * np.log(2 * math.pi * variance)
    return Conditioned((given_earlier * seen).sum(1), each * asked, (given_earlier * asked).sum(1))


def log_sum_exp(values: Floats, axis: int) -> Floats:
    """log Σ exp, without overflow."""
    top = values.max(axis, keepdims=True)
    total: Floats = np.squeeze(top, axis) + np.log(np.exp(values - top).sum(axis))
    return total


class GaussianProcess(FunctionTasks):
    """Functions from a Gaussian process with a known kernel, or one of several.

    Inputs are uniform in [low, high]^dim, y = f(x) + noise, in support and query alike; f has mean zero and the
    covariance of the kernel. The defaults are the training tasks of Nguyen & Grover 2022 ("Transformer neural
    processes"), as in their code: sizes drawn for 16 tasks at a time, 3 to 46 contexts and 3 to
    49 - contexts targets, noise in the targets too. (Their test kernels have the same ranges: Matern52, and
    Periodic with period [0.1, 0.5].)

    The 1-D tasks of Bruinsma's package neuralprocesses 0.2.7 are n_support [0, 30], n_query 50, max_points null,
    noise 0.2236 (a variance of 0.05) and a kernel RBF, Matern52 or WeaklyPeriodic with its defaults.

    `oracle` of an episode is the exact log likelihood of its query targets per query point:

    * "known": under the task's kernel and hyper-parameters. No learner can do better on average; if these differ
      from task to task, a learner must infer them and does worse.
    * "mixture": under the Bayesian average over a list of kernels whose hyper-parameters are all fixed, which is what
      the best learner reaches on average.

    A noise variance below 1e-8 of the function's is raised to that. y is drawn with this noise, so the oracle stays
    exact. Functions and oracle are computed from one Cholesky factor in float64.

    Args:
        kernel: the kernel, or a list from which each task draws one, uniformly; by default RBF with length scale
            [0.1, 0.6] and scale [0.1, 1].
        noise: standard deviation of the noise, or a range from which each task draws its own.
        dim: number of inputs.
        low: least value of an input.
        high: largest value of an input.
        n_support: support points, or a range.
        n_query: query points, or a range.
        max_points: most points of a task, support and query together.
        share_sizes: this many consecutive tasks have the same sizes.
        oracle: "known", "mixture" or "none".
        oracle_kind: "diagonal", the mean over queries of log p(y_m | support), for a learner that predicts each query
            independently; or "joint", log p(all of y | support) divided by the number of queries.
        train_oracle: whether training tasks have an oracle too; training does not read it, and it takes time.

    Raises:
        ValueError: if an option is out of range, or if a mixture has kernels or noise with ranges.
    """

    def __init__(
        self,
        kernel: Kernel | list[Kernel] | None = None,
        noise: NotNegativeOrRange = 0.02,
        dim: Count = 1,
        low: Real = -2.0,
        high: Real = 2.0,
        n_support: NaturalOrRange = (3, 46),
        n_query: CountOrRange = (3, 46),
        max_points: Count | None = 49,
        share_sizes: Count = 16,
        oracle: Literal["known", "mixture", "none"] = "known",
        oracle_kind: Literal["diagonal", "joint"] = "diagonal",
        train_oracle: bool = False,
    ) -> None:
        super().__init__(n_support, n_query, max_points, share_sizes)
        kernel = RBF(length_scale=(0.1, 0.6), scale=(0.1, 1.0)) if kernel is None else kernel
        self._kernels = list(kernel) if isinstance(kernel, (list, tuple)) else [kernel]
        self.kernel = [repr(k) for k in self._kernels]
        self.noise = ends(noise)
        self.low, self.high = low, high
        self.oracle, self.oracle_kind, self.train_oracle = oracle, oracle_kind, train_oracle
        if not self._kernels:
            raise ValueError("expected a kernel or a list of them, got an empty list")
        if not low < high:
            raise ValueError(f"expected low < high, got low {low} and high {high}")
        if oracle == "mixture" and not (all(k.fixed for k in self._kernels) and self.noise[0] == self.noise[1]):
            raise ValueError(
                "expected kernels and noise without ranges for the mixture oracle, an average over a finite list, "
                f'got {", ".join(self.kernel)} and noise {self.noise}; list kernels with fixed values or use "known"'
            )
        self.spec = TaskSpec(x_shape=(dim,), target=Reals(1))

    def inputs(self, draws: Draws, n: int) -> Floats:
        return draws.uniform("x", self.low, self.high, n, *self.spec.x_shape)

    def targets(self, draws: Draws, x: Floats, split: Split) -> tuple[Floats, Floats | None]:
        which = draws.integers("kernel", 0, len(self._kernels) - 1)
        noise = draws.uniform("noise", *self.noise)
        covariance = np.empty((*x.shape[:2], x.shape[1]))
        for i, kernel in enumerate(self._kernels):
            mine = which == i
            hyper = {name: value[mine] for name, value in kernel.draw(draws, f"kernel {i}").items()}
            covariance[mine] = kernel(x[mine], x[mine], hyper)
        factor = _factor(covariance, noise)
        # Not a matrix product: its rounding may depend on the tasks beside it.
        y = (factor * draws.normal("y", x.shape[1])[:, None]).sum(-1)
        return y[..., None], factor if split != "train" or self.train_oracle else None

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """A batch of functions; see `EpisodeSampler.sample`.

        On CUDA, tasks without an oracle are computed there, and the host does not wait for them.
        """
        scored = self.oracle != "none" and (place.split != "train" or self.train_oracle)
        if torch.device(device).type != "cuda" or scored:
            return super().sample(place, device)
        return self._sample_on(place, torch.device(device))

    def _sample_on(self, place: Place, device: torch.device) -> Episodes:
        """The tasks of `sample` computed by torch on a device, in float64, from the same draws."""
        n_support, n_query = self.sizes(place, type(self).__name__)
        draws, n = place.draws(type(self).__name__), self.n_points
        rounded = self.inputs(draws, n).astype(np.float32)
        drawn: dict[str, NDArray[Any]] = {
            "x": rounded,
            "y": draws.normal("y", n),
            "support": n_support,
            "query": n_query,
        }
        drawn |= {
            "which": draws.integers("kernel", 0, len(self._kernels) - 1),
            "noise": draws.uniform("noise", *self.noise),
        }
        hyper = [kernel.draw(draws, f"kernel {i}") for i, kernel in enumerate(self._kernels)]
        drawn |= {f"{i} {name}": value for i, of in enumerate(hyper) for name, value in of.items()}
        there = _all_moved(drawn, device)
        x, covariance = there["x"], None
        for i, kernel in enumerate(self._kernels):
            mine = kernel(x, x, {name: there[f"{i} {name}"] for name in hyper[i]})
            chosen = (there["which"] == i)[:, None, None]
            covariance = mine if covariance is None else torch.where(chosen, mine, covariance)
        assert covariance is not None
        diagonal = covariance.diagonal(dim1=1, dim2=2)  # a view
        diagonal += torch.maximum(there["noise"][:, None] ** 2, JITTER * diagonal)
        factor, _ = torch.linalg.cholesky_ex(covariance)  # the other one waits, to see whether it failed
        y = (factor * there["y"][:, None]).sum(-1, keepdim=True)
        first = (torch.zeros_like(there["support"]), int(n_support.max()), there["support"])
        second = (there["support"], int(n_query.max()), there["query"])
        parts = [_padded(x.float(), y.float(), *part) for part in (first, second)]
        return Episodes(support=parts[0], query=parts[1])

    def score(self, x: Floats, y: Floats, known: Any, n_support: Integers, n_query: Integers) -> Floats | None:
        if self.oracle == "none" or known is None:
            return None
        factors = [known] if self.oracle == "known" else [self._factor_of(kernel, x) for kernel in self._kernels]
        parts = [condition(factor, y[..., 0], n_support, n_query) for factor in factors]
        weight = np.stack([part.evidence for part in parts])  # log p(kernel | support), for a uniform prior
        weight -= log_sum_exp(weight, 0)
        if self.oracle_kind == "joint":
            log_p = log_sum_exp(weight + np.stack([part.joint for part in parts]), 0)
        else:
            log_p = log_sum_exp(weight[..., None] + np.stack([part.each for part in parts]), 0).sum(1)
        return log_p / n_query

    def _factor_of(self, kernel: Kernel, x: Floats) -> Floats:
        hyper = {name: np.full(len(x), low) for name, (low, _) in kernel.hyper.items()}
        return _factor(kernel(x, x, hyper), np.full(len(x), self.noise[0]))


def _factor(covariance: Floats, noise: Floats) -> Floats:
    """Cholesky factor of the covariance of y; covariance of f `[T, n, n]`, noise `[T]`."""
    diagonal = np.einsum("tnn->tn", covariance)  # a view
    diagonal += np.maximum(noise[:, None] ** 2, JITTER * diagonal)
    factor: NDArray[Any] = np.linalg.cholesky(covariance)
    return factor


def _all_moved(arrays: dict[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
    """Arrays `[T, ...]` on a device, in float64, in one copy that the host does not wait for."""
    flat = np.concatenate([array.reshape(len(array), -1) for array in arrays.values()], axis=1, dtype=np.float64)
    host = torch.from_numpy(flat)
    there = moved(host.pin_memory() if device.type == "cuda" else host, device)
    parts = there.split([array[0].size for array in arrays.values()], dim=1)
    return {name: part.reshape(arrays[name].shape) for name, part in zip(arrays, parts, strict=True)}


def _padded(x: Tensor, y: Tensor, start: Tensor, width: int, count: Tensor) -> Examples:
    """`count[t]` points of each task from `start[t]` on, as `padded` for arrays; `width` is the largest count."""
    place = torch.arange(width, device=x.device)
    mask = place < count[:, None]
    column = (start[:, None].long() + place).clamp(max=x.shape[1] - 1)[..., None]
    of_x, of_y = (torch.where(mask[..., None], v.gather(1, column.expand(-1, -1, v.shape[2])), 0) for v in (x, y))
    return Examples(x=of_x, y=of_y, mask=mask)
