"""The temperature by which logits are divided, so that probabilities are right as often as they say."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from metabox.checks import checked
from metabox.episodes import Split
from metabox.evaluation import device_of, evaluating
from metabox.learners.base import Learner
from metabox.model import Model
from metabox.ranges import Count, Whole
from metabox.targets import Classes
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler

LARGEST = math.log(1e3)


@checked
def calibrated(
    model: Model, tasks: EpisodeSampler, *, split: Split = "val", n_tasks: Count = 200, seed: Whole = 0
) -> Model:
    """The model with the temperature of least negative log likelihood (Guo et al. 2017, section 4.2).

    Args:
        model: of classes.
        tasks: of the kind that the model is for: its way and shot matter, since the best temperature depends on them.
        split: whose classes; those of meta-validation, which neither trained the weights nor measure the result.
        n_tasks: how many tasks.
        seed: another seed is another list of tasks.

    Raises:
        ValueError: if the model or the tasks are not of classes, or the tasks not of the model's kind.
    """
    temperature = fit_temperature(model.learner, tasks, split=split, n_tasks=n_tasks, seed=seed)
    return replace(model, temperature=temperature)


@torch.no_grad()
def fit_temperature(learner: Learner, tasks: EpisodeSampler, *, split: Split, n_tasks: int, seed: int) -> float:
    """The temperature of least negative log likelihood of the queries, from 1/1000 to 1000; see `calibrated`."""
    spec = learner.spec
    if not isinstance(spec.target, Classes) or not isinstance(tasks.spec.target, Classes):
        raise ValueError(f"expected a model and tasks of classes, got {spec.target!r} and {tasks.spec.target!r}")
    if replace(spec, target=tasks.spec.target, scale="none") != replace(tasks.spec, scale="none"):
        raise ValueError(f"expected tasks of the kind {spec}, got {tasks.spec}")
    device, logits, labels = device_of(learner), [], []
    with evaluating(learner):
        for first in range(0, n_tasks, 20):
            place = Place(min(20, n_tasks - first), split, first=first, seed=seed)
            episodes = tasks.sample(place, device).blanked()
            params, query = learner(episodes).double(), episodes.query
            logits.append(params[query.mask].cpu())
            labels.append(query.y[query.mask].cpu())
    return _best(logits, labels)


def _best(logits: list[Tensor], labels: list[Tensor]) -> float:
    outside = float(torch.finfo(torch.float32).min)  # as `within` writes it

    def loss(log_temperature: float) -> float:
        total, n = 0.0, 0
        for z, y in zip(logits, labels, strict=True):
            z = (z / math.exp(log_temperature)).masked_fill(z <= outside, -math.inf)
            total -= float(z.log_softmax(-1).gather(1, y[:, None]).sum())
            n += len(y)
        return total / n

    # The loss is convex in the inverse temperature, so it has one minimum.
    found = minimize_scalar(loss, bounds=(-LARGEST, LARGEST), method="bounded", options={"xatol": 1e-4})
    return math.exp(found.x)
