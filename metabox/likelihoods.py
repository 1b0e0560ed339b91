"""Likelihoods: P natural parameters per query point become log p(y|x), in float32.

The loss L_i of a task is the negative log likelihood of its query examples. One reduction is
used everywhere: `task_mean` over a task's valid examples, then the mean over tasks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.config import Configured
from metabox.episodes import TaskSpec
from metabox.parts import Part


def task_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of each task's valid examples: values `[T, M]`, mask `[T, M]` -> `[T]`, 0 for a task with none."""
    # where, not a product: what stands in the padding may be infinite
    return torch.where(mask, values, 0.0).sum(1) / mask.sum(1).clamp(min=1)


def score_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of each task's scores that are there: `[T, M]`, NaN where there is none -> `[T]`, NaN for none."""
    there = mask & ~values.isnan()
    return task_mean(values, there).masked_fill(~there.any(1), math.nan)


class Likelihood(Configured, ABC):
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

    def loss(self, params: Tensor, y: Tensor, mask: Tensor, class_mask: Tensor | None = None) -> Tensor:
        """L_i `[T]`: the mean negative log likelihood of each task's valid examples, mask `[T, M]`."""
        return self.losses(params, y, mask, class_mask)[0]

    def losses(
        self, params: Tensor, y: Tensor, mask: Tensor, class_mask: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_i, and the loss `[T]` of each named part where the target has parts."""
        return task_mean(-self.log_prob(params, y, class_mask), mask), {}

    @abstractmethod
    def scores(self, params: Tensor, y: Tensor, class_mask: Tensor | None = None) -> dict[str, Tensor]:
        """What people read beside the likelihood, each `[T, M]`: accuracy, squared error; NaN where there is none."""

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


class Composite(Likelihood):
    """Named parts, each with the likelihood of its kind; a label that is missing counts for nothing.

    log p = sum over parts of weight_j times the mean log p of the part's labels that are there: over pixels, and over
    the `size` of reals and binary labels, so that parts of many numbers do not drown parts of one. Its negative is the
    multi-task loss sum_j w_j L_j, and a log likelihood up to these weights. P holds the parts' parameters side by side,
    `part_params[j]` of them, each laid out as `[channels, *spatial]` (reals: the means, then the raw scales).

    Args:
        spec: the tasks, with named parts.
    """

    target = "parts"

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        self.parts = spec.parts
        # Every number of a target is predicted by itself: one class, one real, one label.
        sizes = (part.size if part.target == "class" else 1 for part in self.parts)
        self.kinds = [likelihood_for(TaskSpec((1,), p.target, n)) for p, n in zip(self.parts, sizes, strict=True)]
        self.part_params = [kind.n_params * part.columns for kind, part in zip(self.kinds, self.parts, strict=True)]

    @property
    def n_params(self) -> int:
        return sum(self.part_params)

    def log_probs(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Each part's mean log p of an example's labels `[T, M]`, NaN for an example without any."""
        pieces = self._split(params, y)
        return {part.name: _of_numbers(part, kind.log_prob, p, labels) for part, kind, p, labels in pieces}

    def log_prob(self, params: Tensor, y: Tensor, class_mask: Tensor | None = None) -> Tensor:
        by_part = self.log_probs(params, y)
        return torch.stack([part.weight * by_part[part.name].nan_to_num(0.0) for part in self.parts]).sum(0)

    def losses(
        self, params: Tensor, y: Tensor, mask: Tensor, class_mask: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each part's mean over a task's examples that have it, 0 for a task without any."""
        by_part = self.log_probs(params, y).items()
        losses = {name: task_mean(-log_prob, mask & ~log_prob.isnan()) for name, log_prob in by_part}
        return torch.stack([part.weight * losses[part.name] for part in self.parts]).sum(0), losses

    def scores(self, params: Tensor, y: Tensor, class_mask: Tensor | None = None) -> dict[str, Tensor]:
        """`accuracy_NAME` or `squared_error_NAME` of each part, NaN for an example without a label of it."""
        scores = {}
        for part, kind, p, labels in self._split(params, y):
            name = "squared_error" if part.target == "real" else "accuracy"

            def score(p: Tensor, y: Tensor, kind: Likelihood = kind, name: str = name) -> Tensor:
                return kind.scores(p, y)[name]

            scores[f"{name}_{part.name}"] = _of_numbers(part, score, p, labels)
        return scores

    def mixture(self, params: Tensor, class_mask: Tensor | None = None) -> Tensor:
        s, m = params.shape[1:3]
        mixed = []
        for part, kind, p in zip(self.parts, self.kinds, params.split(self.part_params, dim=-1), strict=True):
            one_by_one = p.unflatten(-1, (kind.n_params, part.columns)).transpose(-1, -2)  # [T, S, M, columns, P]
            one = kind.mixture(one_by_one.reshape(-1, s, m * part.columns, kind.n_params))
            mixed.append(one.unflatten(1, (m, part.columns)).transpose(-1, -2).flatten(2))
        return torch.cat(mixed, dim=-1)

    def _split(self, params: Tensor, y: Tensor) -> Iterator[tuple[Part, Likelihood, Tensor, Tensor]]:
        """Each part, its likelihood, and of every number of its targets the parameters and the label."""
        columns = y.split([part.columns for part in self.parts], dim=-1)
        pieces = params.split(self.part_params, dim=-1)
        for part, kind, p, labels in zip(self.parts, self.kinds, pieces, columns, strict=True):
            yield part, kind, p.unflatten(-1, (kind.n_params, part.columns)).transpose(-1, -2), labels


def _of_numbers(part: Part, function: Callable[[Tensor, Tensor], Tensor], p: Tensor, labels: Tensor) -> Tensor:
    """The mean of a likelihood's function over the labels that are there: `[T, M, columns, P]` -> `[T, M]`."""
    there = ~labels.isnan()
    y = torch.where(there, labels, 0.0).flatten(1)
    values = function(p.flatten(1, 2), y.long() if part.target == "class" else y[..., None]).view(labels.shape)
    return torch.where(there, values, 0.0).sum(-1) / there.sum(-1)


def likelihood_for(spec: TaskSpec) -> Likelihood:
    """The likelihood that goes with the kind of target."""
    return {"class": Categorical, "real": Gaussian, "binary": Bernoulli, "parts": Composite}[spec.target](spec)


SMALLEST = 1e-6
