"""Scores of dense predictions: mean intersection over union, depth errors, angles between normals."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from metabox.episodes import Split
from metabox.evaluation import evaluating
from metabox.learners.base import Learner
from metabox.targets import Binary, Classes, Part, Parts
from metabox.targets.parts import split_parts
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler

MISSING = -1
CLOSE = (11.25, 22.5, 30.0)  # degrees


@torch.no_grad()
def pixel_scores(
    learner: Learner,
    tasks: EpisodeSampler,
    *,
    split: Split = "test",
    n_tasks: int = 100,
    seed: int = 0,
    batch: int = 25,
) -> dict[str, float]:
    """Scores of every part with spatial axes, over all known pixels of the tasks 0 ... n_tasks - 1 together.

    For classes `NAME_miou` (the mean over the classes that are predicted or true somewhere) and `NAME_accuracy`; for
    vectors of three, taken as directions, the mean angle to the truth `NAME_angle` in degrees, and the shares of
    pixels within 11.25, 22.5 and 30 degrees, `NAME_within_11.25` ...; for other reals the mean `NAME_absolute_error`
    and `NAME_relative_error`. As in Liu et al. 2019 ("End-to-end multi-task learning with attention"), section 4.1,
    except that their code averages the mean intersection over union of single images.

    Raises:
        ValueError: if no part has spatial axes.
    """
    parts = [part for part in tasks.spec.target.parts if part.spatial]
    if not parts:
        raise ValueError(f"expected parts with spatial axes, got {tasks.spec.target.parts}; use metabox.evaluate")
    device = next((p.device for p in learner.parameters()), torch.device("cpu"))
    meters = {part.name: _meters(part, device) for part in parts}
    with evaluating(learner):
        for first in range(0, n_tasks, batch):
            n = min(batch, n_tasks - first)
            episodes = tasks.sample(Place(n, split, first=first, seed=seed), device)
            valid = episodes.query.mask.flatten()
            truth = split_parts(tasks.spec.target.parts, episodes.query.y)
            params = learner(episodes.blanked()).flatten(0, 1)[valid].float()
            answers = cast(Parts, learner.spec.target).answers(params)
            for part in parts:
                _update(meters[part.name], part, answers[part.name], truth[part.name].flatten(0, 1)[valid])
    return {f"{part.name}_{name}": float(m.compute()) for part in parts for name, m in meters[part.name].items()}


def _meters(part: Part, device: torch.device) -> dict[str, Metric]:
    if isinstance(part.target, Classes):
        return {
            "miou": MulticlassJaccardIndex(part.size, ignore_index=MISSING).to(device),
            "accuracy": MulticlassAccuracy(part.size, average="micro", ignore_index=MISSING).to(device),
        }
    names = ["absolute_error", "relative_error"]
    if isinstance(part.target, Binary):
        names = ["accuracy"]
    elif part.size == 3:
        names = ["angle", *(f"within_{limit:g}" for limit in CLOSE)]
    return {name: MeanMetric(nan_strategy="ignore").to(device) for name in names}


def _update(meters: dict[str, Metric], part: Part, answer: Tensor, y: Tensor) -> None:
    """Add images by what is predicted `[B, maps, *spatial]` and targets `[B, (size,) *spatial]`; NaN is ignored."""
    if isinstance(part.target, Classes):
        labels = y.nan_to_num(MISSING).long()
        for meter in meters.values():
            meter.update(answer, labels)
    elif isinstance(part.target, Binary):
        meters["accuracy"].update(((answer > 0.5) == (y > 0.5)).float().where(~y.isnan(), torch.nan))
    elif part.size == 3:
        cosine = torch.cosine_similarity(answer, y, dim=1)
        angle = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
        meters["angle"].update(angle)
        for limit in CLOSE:
            meters[f"within_{limit:g}"].update((angle < limit).float().where(~angle.isnan(), torch.nan))
    else:
        error = (answer - y).abs()
        meters["absolute_error"].update(error)
        meters["relative_error"].update(error / y)
