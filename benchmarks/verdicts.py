"""Verdicts on several methods that are compared with one, over paired seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

SAME = 1.0
"""An interval inside ±SAME, in percent, is no difference."""


def holm(differences: Mapping[str, Sequence[float]], alpha: float = 0.05) -> dict[str, dict[str, Any]]:
    """What paired differences say of each method, with Holm's correction for their number (Holm 1979).

    The methods are taken in the order of their p values (of the paired t test): of m, the first has an interval of
    level 1 - alpha / m, the next of 1 - alpha / (m - 1), and so on until an interval includes 0, whose level all that
    follow have. So an interval excludes 0 exactly if Holm's procedure rejects.

    Args:
        differences: of each method, in percent, one for each seed; above 0 is better.
        alpha: the probability of one wrong "helps" or "hurts" among all methods that make no difference.

    Returns:
        for each method `delta_percent`, its mean, `half_interval` and `verdict`: "helps" or "hurts" if the interval
        excludes 0, "no difference" if it lies inside ±SAME, else "undecided".

    Raises:
        ValueError: for a method with fewer than two seeds.
    """
    from scipy.special import stdtr, stdtrit

    if short := [name for name, values in differences.items() if len(values) < 2]:
        raise ValueError(f"expected two seeds at least of each method, got one or none of {', '.join(short)}")
    means = {name: statistics.fmean(values) for name, values in differences.items()}
    errors = {name: statistics.stdev(values) / math.sqrt(len(values)) for name, values in differences.items()}

    def p(name: str) -> float:
        if not errors[name]:
            return float(not means[name])
        return 2 * float(stdtr(len(differences[name]) - 1, -abs(means[name]) / errors[name]))

    found, tests = {}, len(differences)
    for name in sorted(differences, key=p):
        half = errors[name] * float(stdtrit(len(differences[name]) - 1, 1 - alpha / tests / 2))
        rejected = abs(means[name]) > half
        tests -= rejected  # once an interval includes 0, so do all that follow, at the same level
        verdict = ("helps" if means[name] > 0 else "hurts") if rejected else "undecided"
        if not rejected and abs(means[name]) + half < SAME:
            verdict = "no difference"
        found[name] = {"delta_percent": round(means[name], 2), "half_interval": round(half, 2), "verdict": verdict}
    return {name: found[name] for name in differences}
