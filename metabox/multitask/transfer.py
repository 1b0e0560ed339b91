"""Transfer between tasks: scores against single-task training, and whether gradients agree.

`table` shows negative transfer: a task that scores worse in multi-task training than alone. The cosines between the
tasks' gradients on the shared parameters are only a symptom, visible during training; `hint` interprets them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean as mean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from metabox.episodes import Episodes
from metabox.evaluation import evaluating, interval_of
from metabox.multitask.recorded import RecordedPairs, read_pairs
from metabox.multitask.weights import check_shared
from metabox.objectives import Objective
from metabox.reports.metrics import more_is_better
from metabox.training.weighting import losses_by_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFLICT = -0.1
"""A pair of tasks whose mean cosine is below this conflicts. Unrelated gradients of P numbers have a cosine of
0 ± 1 / sqrt(P), and the noise of a batch shrinks every cosine towards 0: -0.1 is far from chance."""
AGREEMENT = 0.1
"""A pair of tasks whose mean cosine is above this agrees."""

ENOUGH = 10
"""Batches that a pair of tasks must have been in together before their mean cosine says anything."""
SeedScores = Mapping[str, Sequence[float]]
"""By task, the score of each training seed."""


Metric = str | Mapping[str, str]
"""The name of the score, as in results, of all tasks or of each; it says whether more is better."""


def delta_percent(multi: Mapping[str, float], single: Mapping[str, float], metric: Metric) -> float:
    """Average relative performance against single-task training, in %; above 0 is better than alone.

    `100 / K sum_k (-1)^{l_k} (M_k - S_k) / |S_k|`, l_k = 1 if lower is better (Maninis et al. 2019, section 5;
    Vandenhende et al. 2021, equation 10, whose scores are positive). Some papers print it with the opposite sign.

    Args:
        multi: M, the score of each task in multi-task training.
        single: S, its score when trained alone.
        metric: which score it is: more of "accuracy" is better, less of "squared_error" or "nll".

    Raises:
        ValueError: if the two do not have the same tasks, or a single-task score is 0; for a task without a metric.
    """
    changes = _changes(multi, single, metric)
    return math.fsum(changes.values()) / len(changes)


def table(multi: SeedScores, single: SeedScores, metric: Metric) -> list[dict[str, Any]]:
    """A row for each task, and a last one for all together ("average").

    Seed i of `multi` is compared with seed i of `single`. `single` and `multi` are means over seeds (None in the last
    row: different metrics have no mean); `delta` is the mean relative change in %, `interval_95` half the width of its
    95% interval with the seed as the unit (None for one seed). `metric` is as in `delta_percent`.

    Raises:
        ValueError: if the two do not have the same tasks and seeds, or a single-task score is 0.
    """
    counts = {len(scores) for scores in (*multi.values(), *single.values())}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(f"expected as many seeds for every task, multi and single, got counts {sorted(counts)}")
    pairs = [[{t: s[i] for t, s in scores.items()} for scores in (multi, single)] for i in range(counts.pop())]
    changes = [_changes(one, other, metric) for one, other in pairs]
    rows = [
        {"task": t, "single": mean(single[t]), "multi": mean(multi[t]), **_spread([c[t] for c in changes])}
        for t in single
    ]
    averages = [mean(list(change.values())) for change in changes]
    return [*rows, {"task": "average", "single": None, "multi": None, **_spread(averages)}]


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows of `table` as a Markdown table; tasks that score worse than alone are marked."""
    lines = ["| task | alone | together | Δ % |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        alone, together = ("" if row[name] is None else f"{row[name]:.4g}" for name in ("single", "multi"))
        spread = "" if row["interval_95"] is None else f" ± {row['interval_95']:.2f}"
        mark = " ▼" if row["delta"] < 0 else ""
        lines.append(f"| {row['task']} | {alone} | {together} | {row['delta']:+.2f}{spread}{mark} |")
    return "\n".join(lines) + "\n"


def gradient_cosines(
    objective: Objective, episodes: Episodes, shared: Sequence[nn.Parameter], tasks: Sequence[int] | None = None
) -> Tensor:
    """The cosine between the gradients of each pair of tasks on the shared parameters: `[K, K]`.

    The losses are those in standard units with scale 1 (`Target.error`): with a learned scale, gradients on the scale,
    which agree while all tasks are still fitted badly, would hide a conflict.

    `tasks` are the numbers of those K that are compared, by default all.

    NaN if the batch has no rows of a task, or its gradient is zero. Computed in evaluation mode, so that it changes
    nothing: no batch statistics, no dropout, no draw from the random number generator, and `.grad` stays.
    """
    with evaluating(objective), torch.enable_grad():
        losses, share = losses_by_task(objective.learner.spec, objective.at_scale_one(episodes), episodes.task)
        by_task = losses.unbind()
    shared = check_shared(shared)
    compared = range(len(by_task)) if tasks is None else tasks
    rows = torch.full([len(compared), sum(p.numel() for p in shared)], math.nan)
    for row, k in enumerate(compared):
        if share[k] > 0:
            gradients = torch.autograd.grad(by_task[k], shared, retain_graph=True, materialize_grads=True)
            rows[row] = torch.cat([gradient.flatten() for gradient in gradients]).float().cpu()
    rows /= rows.norm(dim=1, keepdim=True)  # 0 / 0 is NaN
    return rows @ rows.T


class GradientCosines(RecordedPairs):
    """Writes the cosines between the gradients of named tasks or parts to `cosines.json`, every few steps.

    The file holds `tasks` (K names), `steps` (S numbers) and `cosines` (S x K x K, null if undefined); see
    `read_cosines`.

    Args:
        every: steps between two measurements.
        tasks: names of those compared, 32 at most, since the file grows with the number of pairs; by default the first.

    Raises:
        ValueError: for fewer than one step, or names twice or too many; at the start of a run, if tasks have no such
            names or share no parameters, or the file belongs to another run.
    """

    record = "cosines"
    digits = ".4f"

    def measure(
        self, objective: Objective, episodes: Episodes, shared: Sequence[nn.Parameter], compared: Sequence[int]
    ) -> Tensor:
        return gradient_cosines(objective, episodes, shared, compared)


@dataclass(frozen=True)
class Hint:
    """Pairs of tasks whose gradients conflict (share less) or agree (share more), strongest first.

    And pairs that were together in fewer than ENOUGH batches, with the number of these.
    """

    share_less: tuple[tuple[str, str, float], ...]
    share_more: tuple[tuple[str, str, float], ...]
    not_enough: tuple[tuple[str, str, int], ...] = ()

    def __str__(self) -> str:
        def say(pairs: tuple[tuple[str, str, float], ...]) -> str:
            return ", ".join(f"{a} and {b} ({cosine:+.2f})" for a, b, cosine in pairs)

        less = f"share less: {say(self.share_less)}" if self.share_less else ""
        more = f"share more: {say(self.share_more)}" if self.share_more else ""
        if said := "; ".join(filter(None, (less, more, self._unknown()))):
            return said
        return "leave the sharing as it is: no pair conflicts or agrees much"

    def _unknown(self) -> str:
        if not self.not_enough:
            return ""
        pairs = ", ".join(f"{a} and {b} ({n})" for a, b, n in self.not_enough)
        return f"not enough batches with both, of the {ENOUGH} that it takes: {pairs}"


def hint(cosines: Tensor, tasks: Sequence[str]) -> Hint:
    """Which tasks should share less and which more, from the mean cosine of each pair; see CONFLICT and AGREEMENT.

    A hint, not a verdict: tasks in conflict may still help each other, and only `table` shows negative transfer.

    Args:
        cosines: `[S, K, K]` in S batches, NaN if undefined; a pair that was together in fewer than ENOUGH has no hint.
        tasks: K names.
    """
    cosines = cosines.reshape(-1, *cosines.shape[-2:])
    mean, together = cosines.nanmean(0).tolist(), cosines.isfinite().sum(0).tolist()
    every = [(i, j) for i in range(len(tasks)) for j in range(i)]
    pairs = [(tasks[i], tasks[j], mean[i][j]) for i, j in every if together[i][j] >= ENOUGH]
    few = tuple((tasks[i], tasks[j], together[i][j]) for i, j in every if together[i][j] < ENOUGH)
    return Hint(
        tuple(sorted((pair for pair in pairs if pair[2] < CONFLICT), key=lambda pair: pair[2])),
        tuple(sorted((pair for pair in pairs if pair[2] > AGREEMENT), key=lambda pair: -pair[2])),
        few,
    )


def read_cosines(path: str | Path) -> tuple[list[str], list[int], Tensor]:
    """Tasks, steps and cosines `[S, K, K]` of a file that `GradientCosines` wrote, NaN if undefined."""
    return read_pairs(path, "cosines")


def figure(tasks: Sequence[str], steps: Sequence[int], cosines: Tensor) -> Figure:
    """Plot the mean matrix of the first, middle and last third of the recorded steps, and the pairs over training.

    `figure(*read_cosines(path)).savefig("cosines.svg")`. The line is the mean over pairs, the band holds the middle
    80% of them.
    """
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 5.6), layout="constrained")
    places = drawing.subplot_mosaic([["0", "1", "2"], ["along"] * 3], height_ratios=[3, 2])
    bounds = [round(i * len(steps) / 3) for i in range(4)]
    for i, (start, stop) in enumerate(pairwise(bounds)):
        axes, third = places[str(i)], slice(min(start, len(steps) - 1), max(stop, start + 1))
        image = axes.imshow(cosines[third].nanmean(0).numpy(), vmin=-1, vmax=1, cmap="RdBu")
        axes.set_title(f"steps {steps[third][0]} to {steps[third][-1]}")
        axes.set_xticks([])
        axes.set_yticks([])
        if len(tasks) <= 12:  # more names are illegible
            axes.set_xticks(range(len(tasks)), tasks, rotation=90)
            axes.set_yticks(range(len(tasks)) if i == 0 else [], tasks if i == 0 else [])
    drawing.colorbar(image, ax=[places[name] for name in "012"], label="cosine of the gradients")
    i, j = torch.tril_indices(len(tasks), len(tasks), -1)
    pairs = cosines[:, i, j]
    low, middle, high = pairs.nanquantile(0.1, 1), pairs.nanmean(1), pairs.nanquantile(0.9, 1)
    places["along"].fill_between(steps, low.numpy(), high.numpy(), alpha=0.25)
    places["along"].plot(steps, middle.numpy(), marker="o", markersize=2.5)
    places["along"].axhline(0, color="black", linewidth=0.6)
    places["along"].set(xlabel="step", ylabel="cosine of pairs")
    return drawing


def _changes(multi: Mapping[str, float], single: Mapping[str, float], metric: Metric) -> dict[str, float]:
    """By task, the relative change in %, above 0 if it is an improvement."""
    if not single or set(multi) != set(single):
        raise ValueError(f"expected scores of the same tasks, got {sorted(multi)} and {sorted(single)}")
    if zeros := [task for task, score in single.items() if score == 0]:
        raise ValueError(
            f"expected single-task scores other than 0, got 0 for {zeros}; a relative change has no meaning"
        )
    names = dict.fromkeys(single, metric) if isinstance(metric, str) else metric
    if lacking := [task for task in single if not isinstance(names.get(task), str)]:
        raise ValueError(f"expected the metric of each task, such as 'accuracy' or 'nll', got none of {lacking}")
    signs = {task: 1 if more_is_better(names[task]) else -1 for task in single}
    return {task: 100 * signs[task] * (multi[task] - score) / abs(score) for task, score in single.items()}


def _spread(changes: list[float]) -> dict[str, float | None]:
    interval = interval_of(changes)
    return {"delta": mean(changes), "interval_95": interval if math.isfinite(interval) else None}
