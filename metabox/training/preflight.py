"""Checks before anything is written: engine, learner, and the tasks of every split that is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from metabox.config import check_described, identity, plain
from metabox.episodes import Episodes, Split
from metabox.evaluation import evaluating, pretrained, score_batch
from metabox.learners.base import Learner
from metabox.nn.transformer import recompute
from metabox.objectives import Objective, QueryLoss
from metabox.seeding import step_seed
from metabox.targets import Target, TaskSpec
from metabox.targets.spec import Scale
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.training.hook import Hook
from metabox.training.processes import world_size
from metabox.training.selection import Select
from metabox.training.settings import OuterLoop
from metabox.training.weighting import Weighting, task_names

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MakeLearner = Callable[[TaskSpec], Learner]
MakeObjective = Callable[[Learner], Objective]
MakeWeighting = Callable[[int], Weighting]

N_TRIAL_TASKS = 2  # evaluation tasks scored before a run


class Prepared(NamedTuple):
    """A run that has passed its checks: its arguments, what it trains, and the settings that identify it."""

    tasks: EpisodeSampler
    evaluation: EpisodeSampler
    outer: OuterLoop
    make_objective: MakeObjective
    hooks: list[Hook]
    select: Select
    seed: int
    spec: TaskSpec
    model: Objective
    weighting: Weighting | None
    episodes: Episodes
    """The first batch."""
    per_batch: int
    """Tasks per batch on one device."""
    settings: dict[str, Any]


def check(
    tasks: EpisodeSampler,
    learner: MakeLearner,
    outer: OuterLoop,
    *,
    evaluation: EpisodeSampler | None = None,
    objective: MakeObjective | None = None,
    weighting: MakeWeighting | None = None,
    target: Target | None = None,
    scale: Scale = "training",
    hooks: list[Hook] | None = None,
    select: Select | None = None,
    seed: int = 0,
    splits: Sequence[Split] = ("train", "val", "test"),
) -> bool:
    """Check that a run can be trained and evaluated, without writing anything.

    Builds the learner and tries it on a training batch and on a few tasks of the other splits, on the device of the
    run. The arguments are those of `metabox.run`, which itself checks the splits that it needs.

    Returns:
        Whether this process is the one that writes (global rank 0).

    Raises:
        ValueError: if the machine has no such devices, the arguments do not fit together, or a split cannot give such
            tasks.
    """
    from metabox.training.engine import engine_of  # as slow to import as torch; --help does without it

    fabric = engine_of(outer)
    prepare(fabric, tasks, learner, outer, evaluation, objective, weighting, target, scale, hooks, select, seed, splits)
    return fabric.is_global_zero


def prepare(
    fabric: Fabric,
    tasks: EpisodeSampler,
    learner: MakeLearner,
    outer: OuterLoop,
    evaluation: EpisodeSampler | None,
    objective: MakeObjective | None,
    weighting: MakeWeighting | None,
    target: Target | None,
    scale: Scale,
    hooks: list[Hook] | None,
    select: Select | None,
    seed: int,
    splits: Sequence[Split],
) -> Prepared:
    """Build what a run trains, and try it.

    Raises:
        ValueError: as for `check`.
    """
    # The defaults are None: with a class as default, jsonargparse drops the class_path of a value with init_args.
    evaluation, objective, hooks = evaluation or tasks, objective or QueryLoss, hooks or []
    select = select or Select()
    size = world_size(fabric)
    per_batch, rest = divmod(outer.n_tasks, size * outer.accumulate)
    if rest or not per_batch:
        raise ValueError(
            f"expected n_tasks as a multiple of devices x accumulate = {size} x {outer.accumulate}, got {outer.n_tasks}"
        )
    # The same seed on every rank: the same initial weights.
    torch.manual_seed(step_seed(seed, -1))
    spec = tasks.spec.union(evaluation.spec)
    spec = (spec if target is None else spec.scored_by(target)).scaled_by(scale)
    model = objective(learner(spec))
    _fit(model.learner, tasks, seed)
    if outer.recompute:
        recompute(model)
    weigh = weighting(len(task_names(spec))).to(fabric.device) if weighting else None
    if weigh:
        weigh.fit(spec)
    if weigh and size > 1:
        raise ValueError(f"expected one device with a weighting, which needs all tasks of a step, got {size}")
    if weigh and outer.accumulate > 1:
        raise ValueError(
            f"expected accumulate=1 with a weighting, which needs all tasks of a step, got {outer.accumulate}; "
            "use fewer n_tasks, or recompute to save memory"
        )
    if outer.compile == "graphs" and (weigh or size > 1):
        raise ValueError(
            f"expected one device and no weighting with compile 'graphs', got {size} and "
            f"{weigh and type(weigh).__name__}; use compile 'on' or 'off'"
        )
    if hooks and outer.sharded:
        raise ValueError(f"expected no hooks with fsdp, for they need unsharded weights, got {hooks}; use ddp")
    for hook in hooks:
        hook.check(model)
    model.to(fabric.device)
    described = identity(model.config)
    settings = plain(
        {
            "outer": {name: value for name, value in asdict(outer).items() if name != "timeout"},
            "seed": seed,
            "learner": described.pop("learner"),
            "objective": described,
            "weighting": weigh and identity(weigh.config),
            "hooks": [identity(hook.config) for hook in hooks],
            "select": asdict(select),
            "pretrained": pretrained(model.learner),
            "tasks": tasks.identity(),
            "evaluation": evaluation.identity(),
        }
    )
    check_described(**settings)
    model.learner.check_episodes(episodes := tasks.sample(Place(per_batch, seed=seed), fabric.device))
    metrics = _try(model, objective, episodes, evaluation, [split for split in splits if split != "train"])
    if metrics:
        select.check(spec, metrics)
    settings = json.loads(json.dumps(settings))  # as they are read back from a checkpoint
    return Prepared(
        *(tasks, evaluation, outer, objective, hooks, select, seed, spec, model, weigh, episodes, per_batch, settings)
    )


@torch.no_grad()
def _try(
    model: Objective, objective: MakeObjective, episodes: Episodes, evaluation: EpisodeSampler, splits: list[Split]
) -> set[str]:
    """Run a forward pass of training and a few tasks of each evaluation split; changes nothing.

    Returns:
        The scores that the tasks of an evaluation have.
    """
    metrics: set[str] = set()
    buffers = [buffer.clone() for buffer in model.buffers()]
    where = "training"
    try:
        model.train()(episodes)
        predictor = objective(model.learner)
        with evaluating(model.learner):
            for where in splits:
                metrics |= score_batch(predictor, evaluation, Place(N_TRIAL_TASKS, where)).columns.keys()
    except RuntimeError as error:  # sizes that do not fit, or out of memory
        raise ValueError(f"expected a learner that can do the {where} tasks, got {error}") from error
    finally:
        model.train()
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(value)
    return metrics


def _fit(learner: Learner, tasks: EpisodeSampler, seed: int) -> None:
    """Take the statistics that the learner keeps, of its scale and its target, from the first training tasks."""
    learner.fit(tasks)
    scaler, target = learner.scaler, learner.spec.target
    if scaler is not None:
        scaler.fit(example for part in _first(tasks, seed) for example in (part.support, part.query))
    if target.statistics is not None:  # of labels on the learner's scale
        labels = torch.cat([y for part in _first(tasks, seed) for y in _labels(learner, part)])[None]
        target.fit(labels, labels.new_ones(labels.shape[:2], dtype=torch.bool))


def _first(tasks: EpisodeSampler, seed: int) -> Iterator[Episodes]:
    for first in range(0, tasks.n_fitting, 50):
        yield tasks.sample(Place(50, first=first, seed=seed))


def _labels(learner: Learner, episodes: Episodes) -> Iterator[Tensor]:
    """All labels `[K, dy]` on the learner's scale."""
    scaler = learner.scaler
    held = {} if scaler is None else scaler.measure(episodes.support)
    for part in (episodes.support, episodes.query):
        yield (part if scaler is None else scaler.examples(part, held, check=False)).y[part.mask]
