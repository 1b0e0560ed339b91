"""What the card of a model of classes says: accuracy by views, calibration, and how well it knows the unknown.

Used by the scripts of the models that ship; everything goes through `Model`, as a user would.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from metabox.episodes import Split
from metabox.evaluation import calibration_error, interval_of
from metabox.model import Model
from metabox.tasks.nway import NWayKShot
from metabox.tasks.place import Place

BATCH = 20


def by_views(
    model: Model, tasks: NWayKShot, n_tasks: int, views: Sequence[int] = (1, 5, 9), split: Split = "test"
) -> list[dict[str, Any]]:
    """Accuracy, calibration error and time of a task for each number of views, on the same tasks."""
    ways = _ways(tasks)
    found: dict[int, list[tuple[Tensor, Tensor, float]]] = {n: [] for n in views}
    for x, y, asked, answers in _each(tasks, n_tasks, split):
        classes = tuple(range(ways))
        for n in views:
            begun = time.perf_counter()
            proba = model.predict(model.adapted(x, y, classes, n), asked)
            found[n].append((proba, answers, time.perf_counter() - begun))
    return [{"views": n, **_summary(rows)} for n, rows in found.items()]


def _summary(rows: list[tuple[Tensor, Tensor, float]]) -> dict[str, Any]:
    right = [float((proba.argmax(-1) == y).double().mean()) for proba, y, _ in rows]
    confidence, guess = torch.cat([proba for proba, _, _ in rows]).max(-1)
    correct = guess == torch.cat([y for _, y, _ in rows])
    return {
        "accuracy_percent": round(100 * sum(right) / len(right), 2),
        "interval_95_percent": round(100 * interval_of(right), 2),
        "calibration_error": round(calibration_error(confidence, correct), 4),
        "ms_a_task": round(1e3 * median(seconds for *_, seconds in rows), 2),
        "tasks": len(rows),
    }


def knows_unknown(model: Model, tasks: NWayKShot, n_tasks: int, split: Split = "test") -> dict[str, Any]:
    """How well the largest probability tells queries of a task's classes from those of as many other classes.

    tasks: of twice as many ways as the support will have
    """
    half = _ways(tasks) // 2
    areas = []
    for x, y, asked, answers in _each(tasks, n_tasks, split):
        known = y < half
        proba = model.predict(model.adapted(x[known], y[known], tuple(range(half))), asked)
        areas.append(float(roc_auc_score((answers < half).numpy(), proba.max(-1).values.double().numpy())))
    return {
        "ways": half,
        "unseen_classes": _ways(tasks) - half,
        "auroc": round(sum(areas) / len(areas), 4),
        "interval_95": round(interval_of(areas), 4),
        "tasks": len(areas),
    }


def _ways(tasks: NWayKShot) -> int:
    ways = tasks.spec.target.n_classes
    assert ways is not None
    return ways


def _each(tasks: NWayKShot, n_tasks: int, split: Split) -> Any:
    """Images and labels of the support and of the queries, task by task."""
    for first in range(0, n_tasks, BATCH):
        episodes = tasks.sample(Place(min(BATCH, n_tasks - first), split, first=first, seed=0))
        support, query = episodes.support, episodes.query
        for i in range(len(support.x)):
            shown, asked = support.mask[i], query.mask[i]
            yield support.x[i, shown], support.y[i, shown], query.x[i, asked], query.y[i, asked]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
