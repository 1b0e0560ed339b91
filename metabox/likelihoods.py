"""Likelihoods: P natural parameters per query point become log p(y|x), in float32.

The loss L_i of a task is the negative log likelihood of its query examples. One reduction is
used everywhere: `task_mean` over a task's valid examples, then the mean over tasks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.episodes import TaskSpec


def task_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of each task's valid examples: values `[T, M]`, mask `[T, M]` -> `[T]`, 0 for a task with none."""
    # where, not a product: what stands in the padding may be infinite
    return torch.where(mask, values, 0.0).sum(1) / mask.sum(1).clamp(min=1)


class Likelihood(ABC):
    """p(y | params) for one kind of target. `n_params` is the P that a learner must give per query point."""

    def __init__(self, spec: TaskSpec) -> None:
        if spec.target != self.target:
            raise ValueError(f"expected a task spec with target {self.target!r} for {type(self).__name__}, got {spec}")
        self.size = spec.target_size

    target: str

    @property
    @abstractmethod
    def n_params(self) -> int: ...

    @abstractmethod
    def log_prob(self, params: Tensor, y: Tensor, class_mask: Tensor | None = None) -> Tensor:
        """log p(y) in nats: params `[T, M, P]`, y as in `Examples`, class_mask `[T, C]` -> `[T, M]`."""

    @abstractmethod
    def scores(self, params: Tensor, y: Tensor, class_mask: Tensor | None = None) -> dict[str, Tensor]:
        """What people read beside the likelihood, each `[T, M]`: accuracy, squared error."""

    @abstractmethod
    def mixture(self, params: Tensor, class_mask: Tensor | None = None) -> Tensor:
        """The one prediction that stands for several, all equally likely: `[T, S, M, P]` -> `[T, M, P]`, float32.

        It has the mixture's probabilities where it can (classes, labels), else its mean and variance.
        """


class Categorical(Likelihood):
    """One of C classes; the natural parameters are logits. Classes outside `class_mask` have probability 0."""

    target = "class"

    @property
    def n_params(self) -> int:
        return self.size

    def log_probs(self, params: Tensor, class_mask: Tensor | None = None) -> Tensor:
        """log p of every class, `[T, M, P]`, -inf for those that a task does not have."""
        logits = params.float()
        if class_mask is not None:
            absent = F.pad(~class_mask, (0, self.size - class_mask.shape[1]), value=True)
            logits = logits.masked_fill(absent[:, None, :], -math.inf)
        return logits.log_softmax(-1)

    def log_prob(self, params: Tensor, y: Tensor, class_mask: Tensor | None = None) -> Tensor:
        return self.log_probs(params, class_mask).gather(-1, y[..., None]).squeeze(-1)

    def scores(self, params: Tensor, y: Tensor, class_mask: Tensor | None = None) -> dict[str, Tensor]:
        return {"accuracy": (self.log_probs(params, class_mask).argmax(-1) == y).float()}

    def mixture(self, params: Tensor, class_mask: Tensor | None = None) -> Tensor:
        """Here each prediction is a distribution over the classes of `class_mask` (all, in a task without any).

        The logits of the others are left on the scale of these, and count for nothing where there is a mask.
        """
        logits = params.float()
        counted = logits
        if class_mask is not None:
            absent = F.pad(~class_mask, (0, self.size - class_mask.shape[1]), value=True)
            absent = absent & class_mask.any(1, keepdim=True)
            counted = logits.masked_fill(absent[:, None, None], -math.inf)
        return (logits - counted.logsumexp(-1, keepdim=True)).logsumexp(1) - math.log(params.shape[1])


class Gaussian(Likelihood):
    """Independent normal targets; P = 2 dy: the means, then the raw scales (softplus, above `min_scale`).

    Args:
        spec: the tasks.
        noise: a fixed standard deviation; then P = dy.
        min_scale: the smallest learned standard deviation, as in Garnelo et al. 2018 and Kim et al. 2019 (0.1 there).
    """

    target = "real"

    def __init__(self, spec: TaskSpec, noise: float | None = None, min_scale: float = 1e-2) -> None:
        super().__init__(spec)
        if (noise is not None and noise <= 0) or min_scale <= 0:
            raise ValueError(f"expected positive standard deviations, got noise {noise}, min_scale {min_scale}")
        self.noise = noise
        self.min_scale = min_scale

    @property
    def n_params(self) -> int:
        return self.size * (1 if self.noise else 2)

    def mean_and_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """`[T, M, P]` -> two of `[T, M, dy]`."""
        params = params.float()
        if self.noise:
            return params, torch.full_like(params, self.noise)
        mean, raw = params.chunk(2, dim=-1)
        return mean, self.min_scale + F.softplus(raw)

    def log_prob(self, params: Tensor, y: Tensor, class_mask: Tensor | None = None) -> Tensor:
        mean, scale = self.mean_and_scale(params)
        z = (y.float() - mean) / scale
        return (-0.5 * z**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def scores(self, params: Tensor, y: Tensor, class_mask: Tensor | None = None) -> dict[str, Tensor]:
        return {"squared_error": (self.mean_and_scale(params)[0] - y).square().mean(-1)}

    def mixture(self, params: Tensor, class_mask: Tensor | None = None) -> Tensor:
        """Here the normal with the mixture's mean and, unless the noise is fixed, its variance."""
        means, scales = self.mean_and_scale(params)
        mean = means.mean(1)
        if self.noise:
            return mean
        variance = scales.square().mean(1) + means.var(1, correction=0)  # the law of total variance
        above = (variance.sqrt() - self.min_scale).clamp(min=SMALLEST)
        raw = above + torch.log(-torch.expm1(-above))  # the inverse of softplus
        return torch.cat([mean, raw], dim=-1)


class Bernoulli(Likelihood):
    """L independent yes/no labels; the natural parameters are their logits."""

    target = "binary"

    @property
    def n_params(self) -> int:
        return self.size

    def log_prob(self, params: Tensor, y: Tensor, class_mask: Tensor | None = None) -> Tensor:
        return -F.binary_cross_entropy_with_logits(params.float(), y.float(), reduction="none").sum(-1)

    def scores(self, params: Tensor, y: Tensor, class_mask: Tensor | None = None) -> dict[str, Tensor]:
        return {"accuracy": ((params > 0) == (y > 0.5)).float().mean(-1)}

    def mixture(self, params: Tensor, class_mask: Tensor | None = None) -> Tensor:
        logits = params.float()
        return F.logsigmoid(logits).logsumexp(1) - F.logsigmoid(-logits).logsumexp(1)


def likelihood_for(spec: TaskSpec) -> Likelihood:
    """The likelihood that goes with the kind of target."""
    return {"class": Categorical, "real": Gaussian, "binary": Bernoulli}[spec.target](spec)


SMALLEST = 1e-6
