"""Which validation score chooses the weights that a run keeps."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from metabox.checks import check_fields
from metabox.evaluation import Scores, mean_of
from metabox.reports.metrics import main_metric, more_is_better
from metabox.targets import TaskSpec

POOLED = ("auroc", "average_precision", "calibration_error")
"""Metrics that a few tasks may not have yet, so that a run begins without them."""


@dataclass(frozen=True)
class Select:
    """Which validation score chooses the weights that a run keeps.

    Args:
        metric: a score of an evaluation, such as "squared_error"; of parts without the part's name. By default
            "accuracy" if there is one, else "nll", else "loss".
        tasks: names of the tasks or parts that count, with equal weight; the others are auxiliary and count 0. By
            default all of them.

    Raises:
        ValueError: at the start of a run, for a metric that has no best value or that there is not, or unknown tasks.
    """

    metric: str | None = None
    tasks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.metric is not None and self.metric.startswith("coverage"):
            raise ValueError(f"expected a metric whose best value is the largest or smallest, got {self.metric!r}")

    def check(self, spec: TaskSpec, metrics: Collection[str]) -> None:
        """Raise a ValueError unless an evaluation with these metrics can choose."""
        names = spec.tasks or tuple(part.name for part in spec.target.parts)
        if unknown := [name for name in self.tasks if name not in names]:
            raise ValueError(f"expected select with tasks among {list(names)}, got {unknown}")
        lacking = [name for name in self._columns(spec, metrics) if name not in metrics]
        if lacking and not (self.metric or "").startswith(POOLED):
            raise ValueError(
                f"expected select with a metric of the validation among {sorted(metrics)}, got {lacking[0]!r}; parts "
                "have metrics of their own, so name the metric without the part, and the part among the tasks"
            )

    def _metric(self, metrics: Collection[str]) -> str:
        return self.metric or main_metric(metrics)

    def _columns(self, spec: TaskSpec, metrics: Collection[str]) -> list[str]:
        metric = self._metric(metrics)
        parts = [] if spec.tasks else [part.name for part in spec.target.parts]
        chosen = self.tasks or (parts if metric not in metrics else ())
        return [f"{metric}_{name}" for name in chosen] if parts and chosen else [metric]

    def score(self, spec: TaskSpec, scores: Scores) -> tuple[str, float]:
        """The name of what chooses, and its value; NaN if the validation has no such value."""
        known = [*scores.per_task, *scores.pooled]
        columns, metric = self._columns(spec, known), self._metric(known)
        named = spec.tasks and self.tasks and metric in scores.per_task
        if named:
            by_task = scores.by_task(metric)
            values = [by_task.get(name, math.nan) for name in self.tasks]
        else:
            values = [
                scores.mean(name) if name in scores.per_task else scores.pooled.get(name, math.nan) for name in columns
            ]
        return "_".join([metric, *self.tasks]), mean_of(values) if not any(map(math.isnan, values)) else math.nan

    def goodness(self, spec: TaskSpec, scores: Scores) -> float:
        """The score with more for better; the least number for one that is missing."""
        name, value = self.score(spec, scores)
        if math.isnan(value):
            return -math.inf
        return value if more_is_better(name) else -value
