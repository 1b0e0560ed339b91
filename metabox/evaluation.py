"""Evaluation: a fixed list of episodes, one score per task, the mean with its 95% interval over tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from metabox.episodes import EpisodeSampler, Split
from metabox.learners.base import Learner
from metabox.likelihoods import Categorical, Likelihood, likelihood_for, task_mean

BATCH_NORM = "running statistics: no query influences another"


@dataclass(frozen=True)
class Scores:
    """The scores of one learner on one fixed list of tasks.

    split, seed: name the list
    per_task: metric to one value per task; `nll` in nats per query, `accuracy` in 0...1
    pooled: metrics that need all predictions at once: `calibration_error` (15 bins, L1; Naeini et al. 2015)
    """

    split: str
    seed: int
    per_task: dict[str, list[float]]
    pooled: dict[str, float] = field(default_factory=dict)

    @property
    def n_tasks(self) -> int:
        return len(self.per_task["nll"])

    def mean(self, metric: str) -> float:
        return math.fsum(self.per_task[metric]) / self.n_tasks

    def interval(self, metric: str) -> float:
        """Half the width of the 95% interval of the mean, Student's t with the task as the unit."""
        from scipy.special import stdtrit

        values, mean = self.per_task[metric], self.mean(metric)
        if len(values) < 2:
            return math.inf
        variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
        return float(stdtrit(len(values) - 1, 0.975)) * math.sqrt(variance / len(values))

    def summary(self) -> dict[str, Any]:
        def interval(name: str) -> float | None:
            return value if math.isfinite(value := self.interval(name)) else None  # JSON has no infinity

        metrics = {name: {"mean": self.mean(name), "interval_95": interval(name)} for name in self.per_task}
        return {"split": self.split, "seed": self.seed, "n_tasks": self.n_tasks, **metrics, **self.pooled}

    def __str__(self) -> str:
        parts = []
        for name in sorted(self.per_task):
            scale, unit = (100, "%") if name == "accuracy" else (1, "")
            parts.append(f"{name} {scale * self.mean(name):.4g}{unit} ± {scale * self.interval(name):.2g}{unit}")
        parts += [f"{name.replace('_', ' ')} {value:.3f}" for name, value in self.pooled.items()]
        return f"{', '.join(parts)} ({self.n_tasks} {self.split} tasks, 95% interval over tasks)"


@torch.no_grad()
def evaluate(
    learner: Learner,
    tasks: EpisodeSampler,
    *,
    split: Split = "test",
    n_tasks: int = 600,
    seed: int = 0,
    batch: int = 50,
    likelihood: Likelihood | None = None,
) -> Scores:
    """Score a learner on the tasks 0 ... n_tasks - 1 of the list (split, seed).

    The learner is put in evaluation mode for the while: batch norm uses its running statistics and updates
    none. Computed in the precision of the weights.

    Args:
        learner: any learner whose spec covers the tasks.
        tasks: where they come from.
        split: which classes.
        n_tasks: how many tasks; the unit of the interval.
        seed: another seed is another list.
        batch: tasks at a time, for memory; no score depends on it.
        likelihood: by default the one that goes with the target.

    Raises:
        ValueError: where the tasks are not of the kind that the learner was built for, or a prediction is not finite.
    """
    if n_tasks < 1 or batch < 1:
        raise ValueError(f"expected n_tasks and batch of at least 1, got {n_tasks} and {batch}")
    if learner.spec.union(tasks.spec) != learner.spec:
        raise ValueError(f"expected tasks of at most {learner.spec.target_size} classes, got {tasks.spec.target_size}")
    likelihood = likelihood or likelihood_for(learner.spec)
    device = next((p.device for p in learner.parameters()), torch.device("cpu"))
    modes = [(module, module.training) for module in learner.modules()]
    learner.eval()
    columns: dict[str, list[Tensor]] = {}
    confidence: list[Tensor] = []
    correct: list[Tensor] = []
    try:
        for first in range(0, n_tasks, batch):
            n = min(batch, n_tasks - first)
            episodes = tasks.sample(0, n, split=split, device=device, seed=seed, first=first).blanked()
            query, class_mask = episodes.query, episodes.class_mask
            if not bool(query.mask.any(1).all()):
                raise ValueError(
                    f"expected a query in every task, got a task without among {first} ... {first + n - 1}"
                )
            params = learner(episodes)
            values = {"nll": -likelihood.log_prob(params, query.y, class_mask)}
            values |= likelihood.scores(params, query.y, class_mask)
            for name, value in values.items():
                columns.setdefault(name, []).append(task_mean(value, query.mask).double().cpu())
            if isinstance(likelihood, Categorical):
                top = likelihood.log_probs(params, class_mask).max(-1).values.exp()
                confidence.append(top[query.mask].cpu())
                correct.append(values["accuracy"][query.mask].cpu())
    finally:
        _restore(modes)
    per_task = {name: torch.cat(parts).tolist() for name, parts in columns.items()}
    if not all(math.isfinite(value) for values_ in per_task.values() for value in values_):
        raise ValueError(
            "expected finite predictions, got NaN or infinity; the learner's weights are damaged or diverged"
        )
    pooled = {"calibration_error": calibration_error(torch.cat(confidence), torch.cat(correct))} if confidence else {}
    return Scores(split, seed, per_task, pooled)


def calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """The expected calibration error of predictions: confidence `[K]`, correct (0 or 1) `[K]`."""
    from torchmetrics.functional.classification import binary_calibration_error

    # A top-label prediction is a binary one: "this label is right", with the stated confidence.
    return float(binary_calibration_error(confidence.float(), correct.long(), n_bins=15, norm="l1"))


def _restore(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        module.training = training
