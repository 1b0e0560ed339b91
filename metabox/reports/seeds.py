"""Scores of finished runs over seeds, for choosing among them: of validation, then of the test."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metabox.reports.collect import Run, read_run
from metabox.reports.metrics import main_metric


def scores_of_run(folder: str | Path) -> dict[str, Any]:
    """`chosen_by`, the metric that selected the weights; their `validation` scores; the recipe's own `test` scores.

    Raises:
        ValueError: if the folder holds no finished run, or one of its files is invalid.
    """
    run = read_run(folder)
    if run.changed:
        raise ValueError(
            f"expected the files of {folder} as they were when the run ended, got {', '.join(run.changed)}"
        )
    validation = _validation(run)
    select = run.recipe.get("select") or {}
    metric = select.get("metric") or main_metric(validation)
    chosen_by = "_".join([metric, *select.get("tasks", ())])
    return {"chosen_by": chosen_by, "validation": validation, "test": _plain(run.scores.means())}


def _validation(run: Run) -> dict[str, float | None]:
    step = str(run.result["weights"].get("step"))
    for line in reversed(run.curve):
        if str(line["step"]) == step and isinstance(line.get("val"), dict):
            return _plain(line["val"])
    raise ValueError(f"expected the validation of step {step} in {run.folder / 'metrics.jsonl'}, got none; restore it")


def _plain(scores: dict[str, Any]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}  # JSON has no NaN


def combinations(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each recipe with its options, the mean and standard deviation over seeds (None for a single seed).

    Args:
        rows: for each run `recipe`, `options`, `seed`, and either the items of `scores_of_run` or why it `failed`.
    """
    together: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        together.setdefault(json.dumps([row["recipe"], row["options"]]), []).append(row)
    return [_combination(rows) for rows in together.values()]


def _combination(rows: list[dict[str, Any]]) -> dict[str, Any]:
    good = [row for row in rows if "failed" not in row]
    return {
        "recipe": rows[0]["recipe"],
        "options": rows[0]["options"],
        "seeds": [row["seed"] for row in good],
        "failed_seeds": [row["seed"] for row in rows if "failed" in row],
        "chosen_by": good[0]["chosen_by"] if good else None,
        "validation": _over_seeds([row["validation"] for row in good]),
        "test": _over_seeds([row["test"] for row in good]),
    }


def _over_seeds(scores: list[dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for name in dict.fromkeys(name for row in scores for name in row):
        values = [value for row in scores if (value := row.get(name)) is not None]
        found[name] = {
            "mean": math.fsum(values) / len(values) if values else None,
            "spread": statistics.stdev(values) if len(values) > 1 else None,
        }
    return found
