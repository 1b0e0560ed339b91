"""Paired comparison of two runs on the same episodes: the mean difference of their scores over tasks."""

from __future__ import annotations

import math
import warnings
from itertools import combinations
from typing import Any

from metabox.evaluation import interval_of, mean_of
from metabox.reports.collect import Run
from metabox.reports.metrics import main_metric

LEARNER_KEYS = (
    "batch_norm",
    "transductive",
    "pretrained",
)  # of the protocol, what describes the learner, not the tasks


def comparisons(runs: list[Run]) -> list[dict[str, Any]]:
    """Every pair of runs on the same list of tasks, except two seeds of one recipe; see `paired`."""
    found = []
    for one, other in combinations(runs, 2):
        metric = headline(one)
        if one.configuration != other.configuration and tasks_of(one) == tasks_of(other) and metric == headline(other):
            got = paired(one.scores.per_task[metric], other.scores.per_task[metric])
            found.append({"one": one.label, "other": other.label, "metric": metric, **got})
    return found


def paired(one: list[float], other: list[float]) -> dict[str, float | None]:
    """The mean difference one - other over tasks, and two tests that it is zero.

    `interval_95` is half the width of the paired t interval, `t_test_p` its p value; `wilcoxon_p` that of the signed
    rank test (tasks without a difference are left out), for differences that are far from normal. Both p values are
    None if the two do not differ on any task. Tasks for which one of the two has no score (NaN) are left out.
    """
    from scipy import stats

    pairs = [pair for pair in zip(one, other, strict=True) if not any(map(math.isnan, pair))]
    difference = [a - b for a, b in pairs]
    if len(difference) < 2 or not any(difference):
        return {"difference": mean_of(difference), "interval_95": None, "t_test_p": None, "wilcoxon_p": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all differences are equal: p is 0, as it should be
        t_test_p = float(stats.ttest_rel(*zip(*pairs, strict=True)).pvalue)
    return {
        "difference": mean_of(difference),
        "interval_95": interval_of(difference),
        "t_test_p": t_test_p,
        "wilcoxon_p": float(stats.wilcoxon(difference).pvalue),
    }


def headline(run: Run) -> str:
    """The main metric of a run, among its scores: that of its claim, or else accuracy, or else nll."""
    if run.claim and run.claim["metric"] in run.scores.per_task:
        return str(run.claim["metric"])
    return main_metric(run.scores.per_task)


def tasks_of(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.protocol.items() if name not in LEARNER_KEYS}
