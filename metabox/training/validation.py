"""Validation: scores of the current weights, and the best weights so far on disk."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from metabox.evaluation import Scores, evaluate
from metabox.tensors import save_tensors
from metabox.training.log import Metrics
from metabox.training.preflight import Prepared
from metabox.training.progress import Best, Progress
from metabox.training.sharding import full_tensors, unsharded
from metabox.training.step import Step

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BEST = "best.safetensors"


def validate(fabric: Fabric, prepared: Prepared, step: Step, progress: Progress, metrics: Metrics, out: Path) -> Scores:
    """Score the validation tasks, all processes together, and write the weights if they are the best so far."""
    learner, several = step.kept.learner, fabric.world_size > 1
    for buffer in step.kept.buffers() if several else ():
        torch.distributed.broadcast(buffer, src=0)  # the batch norm of each rank has seen different tasks
    with unsharded(step.model), fabric.autocast():  # in the precision of training
        scores = evaluate(
            learner,
            prepared.evaluation,
            split="val",
            n_tasks=prepared.outer.n_validation,
            objective=prepared.make_objective,
            distributed=several,
        )
    step.module.train()
    value = max(prepared.select.goodness(prepared.spec, scores), -sys.float_info.max)  # JSON has no infinity
    progress.since_best += 1
    if progress.best is None or value > progress.best["value"]:
        progress.best, progress.since_best = Best(step=progress.step, value=value), 0
        weights = full_tensors(learner.state_dict())  # all processes together: each has the same scores
        if fabric.is_global_zero:
            save_tensors(out / BEST, weights, step=progress.step, seconds=progress.seconds)
    name, chosen = prepared.select.score(prepared.spec, scores)
    means = scores.means() | ({} if math.isnan(chosen) else {name: chosen})
    metrics.write(progress.step, seconds=progress.seconds, val=means)
    return scores
