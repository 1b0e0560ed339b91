"""What a metric is: in percent or not, larger or smaller if better, and read from which scores of a task."""

from __future__ import annotations

from collections.abc import Collection

from metabox.evaluation import Scores

DERIVED = {"error": ("accuracy", 1.0), "log_likelihood": ("nll", 0.0)}
"""Metrics that papers print, as the metric that results have and the number that it is subtracted from."""


def values(scores: Scores, metric: str) -> list[float] | None:
    """The metric on each task: one of those in `scores.per_task`, "error" or "log_likelihood"; None if not measured."""
    source, whole = DERIVED.get(metric, (metric, None))
    found = scores.per_task.get(source)
    return found if found is None or whole is None else [whole - value for value in found]


def scale(metric: str) -> tuple[int, str]:
    """What shown numbers are multiplied by, and their unit."""
    return (100, "%") if metric.startswith("accuracy") or metric == "error" else (1, "")


def main_metric(metrics: Collection[str]) -> str:
    """Of the metrics of an evaluation, the one that sums it up if none is named."""
    return next(name for name in ("accuracy", "nll", "loss") if name in metrics)


HIGHER = ("accuracy", "auroc", "average_precision", "log_likelihood", "miou")
"""Metrics of which more is better; of others less is."""


def more_is_better(metric: str) -> bool:
    """Whether more is better; the name of a part may stand before or after that of the metric."""
    return metric.startswith(HIGHER) or metric.endswith(tuple(f"_{name}" for name in HIGHER)) or "_within_" in metric
