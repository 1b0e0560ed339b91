"""Task affinity: how much a step on the loss of one task lowers that of another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from metabox.episodes import Episodes
from metabox.evaluation import evaluating
from metabox.multitask.recorded import RecordedPairs, read_pairs
from metabox.multitask.weights import check_shared
from metabox.objectives import Objective
from metabox.ranges import Count, Positive
from metabox.training.weighting import losses_by_task


def task_affinity(
    objective: Objective,
    episodes: Episodes,
    shared: Sequence[nn.Parameter],
    tasks: Sequence[int] | None = None,
    step: float = 0.01,
) -> Tensor:
    """Z `[K, K]` of Fifty et al. 2021 ("Efficiently identifying task groupings for multi-task learning").

    Z[i, j] = 1 - L_j(theta_sh - step dL_i/dtheta_sh, theta_j) / L_j(theta_sh, theta_j): the share of task j's loss that
    a step on task i's loss, of the shared parameters alone, takes away; below 0 if it adds to it.

    A ratio has a meaning only for losses above 0, so these are the losses at scale 1 (`Target.error`), and a task whose
    loss is not above 0 has NaN. So has one without rows in the batch. Nothing is changed, as in `gradient_cosines`.

    Deviations: the step is plain gradient descent of one size, whatever optimizer and learning rate train. All Z are
    proportional to it to first order, so that their order, and the best groups, do not depend on it.

    Args:
        objective: with its learner.
        episodes: a batch of its tasks.
        shared: theta_sh.
        tasks: the numbers of those K that are compared, by default all.
        step: the size of the step.
    """
    spec = objective.learner.spec
    shared = check_shared(shared)

    def losses() -> tuple[Tensor, Tensor]:
        return losses_by_task(spec, objective.at_scale_one(episodes), episodes.task)

    with evaluating(objective), torch.enable_grad():
        before, share = losses()
        compared = list(range(len(before)) if tasks is None else tasks)
        there = [bool(share[k] > 0) and float(before[k].detach()) > 0 for k in compared]
        gradients = [
            torch.autograd.grad(before[k], shared, retain_graph=True, materialize_grads=True) if known else None
            for k, known in zip(compared, there, strict=True)
        ]
    kept = before.detach()[compared]
    found = torch.full([len(compared), len(compared)], math.nan)
    values = [parameter.detach().clone() for parameter in shared]
    with evaluating(objective), torch.no_grad():
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            try:
                for parameter, along in zip(shared, gradient, strict=True):
                    parameter.sub_(along, alpha=step)
                found[i] = (1 - losses()[0][compared] / kept).float().cpu()
            finally:
                for parameter, value in zip(shared, values, strict=True):
                    parameter.copy_(value)
    found[:, [not known for known in there]] = math.nan
    return found


class TaskAffinity(RecordedPairs):
    """Writes the affinity of each task to each other to `affinity.json`, every few steps; see `task_affinity`.

    The file holds `tasks` (K names), `steps` (S numbers) and `affinity` (S x K x K, null if undefined), row i that of
    task i to the others; see `read_affinity`. One measurement costs K backward and K + 1 forward passes.

    Args:
        every: steps between two measurements.
        tasks: names of those compared, 32 at most; by default the first.
        step: the size of the step that is tried.

    Raises:
        ValueError: as `GradientCosines`.
    """

    record = "affinity"

    def __init__(self, every: Count = 10, tasks: tuple[str, ...] | None = None, step: Positive = 0.01) -> None:
        super().__init__(every, tasks)
        self.step = step

    def measure(
        self, objective: Objective, episodes: Episodes, shared: Sequence[nn.Parameter], compared: Sequence[int]
    ) -> Tensor:
        return task_affinity(objective, episodes, shared, compared, self.step)


def read_affinity(path: str | Path) -> tuple[list[str], list[int], Tensor]:
    """Tasks, steps and affinities `[S, K, K]` of a file that `TaskAffinity` wrote, NaN if undefined."""
    return read_pairs(path, "affinity")
