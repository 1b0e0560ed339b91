"""Evaluation: a fixed list of episodes, one score per task, the mean with its 95% interval over tasks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm.auto import tqdm

from metabox.checks import check, checked
from metabox.episodes import Episodes, Examples, Split
from metabox.learners.base import Learner
from metabox.nn.backbones import Backbone
from metabox.nn.norm import NORMS
from metabox.objectives import Objective, QueryLoss, StreamLoss
from metabox.ranges import Count, Whole
from metabox.ranking import Ranked, ranking_scores
from metabox.targets import Classes
from metabox.targets.base import score_mean, task_mean
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.training.allocator import keep_freed_memory


@dataclass(frozen=True, repr=False)
class Scores:
    """The scores of one learner on one fixed list of tasks.

    split, seed: identify the list
    per_task: metric to one value per task; `nll` in nats per query, `accuracy` in 0...1; if the best possible
        prediction is known, `gap_to_oracle`, the nll minus that of the best prediction, in nats per query; if a
        sequence was predicted step by step, `accuracy_instance_k` at the k-th instance of a class (Santoro et al.
        2016, table 1). A score that a task does not have (of a named part without labels) is NaN, and left out of means
    tasks: the name of each task, if tasks have names
    pooled: metrics that need all predictions at once: `calibration_error` (15 bins, L1; Naeini et al. 2015); of binary
        labels `auroc` and `average_precision`, the mean over labels that are 0 somewhere and 1 elsewhere, with
        `_NAME` for a named part
    """

    split: str
    seed: int
    per_task: dict[str, list[float]]
    tasks: list[str] = field(default_factory=list)
    pooled: dict[str, float] = field(default_factory=dict)

    @property
    def n_tasks(self) -> int:
        return len(next(iter(self.per_task.values())))

    def mean(self, metric: str) -> float:
        return mean_of(self.per_task[metric])

    def means(self) -> dict[str, float]:
        """The mean of every metric that at least one task has."""
        means = {name: self.mean(name) for name in self.per_task}
        return {name: mean for name, mean in means.items() if not math.isnan(mean)}

    def by_task(self, metric: str) -> dict[str, float]:
        """The mean of a metric over the rows of each named task, in the order of their first row."""
        return {name: mean_of(values) for name, values in self.rows_by_task(metric).items()}

    def rows_by_task(self, metric: str) -> dict[str, list[float]]:
        """The values of a metric for each named task, in the order of their first row.

        Raises:
            ValueError: if there is no such metric, or tasks have no names.
        """
        if metric not in self.per_task:
            raise ValueError(f"expected one of the metrics {sorted(self.per_task)}, got {metric!r}")
        if not self.tasks:
            raise ValueError(
                f"expected scores of tasks with names, got none; a part's own metric is a mean, .mean({metric!r})"
            )
        rows: dict[str, list[float]] = {}
        for name, value in zip(self.tasks, self.per_task[metric], strict=True):
            rows.setdefault(name, []).append(value)
        return rows

    def interval(self, metric: str) -> float:
        """Half the width of the 95% interval of the mean, Student's t over tasks."""
        return interval_of(self.per_task[metric])

    def summary(self) -> dict[str, Any]:
        def interval(name: str) -> float | None:
            return value if math.isfinite(value := self.interval(name)) else None  # JSON has no infinity

        metrics = {name: {"mean": mean, "interval_95": interval(name)} for name, mean in self.means().items()}
        return {"split": self.split, "seed": self.seed, "n_tasks": self.n_tasks, **metrics, **self.pooled}

    def __repr__(self) -> str:
        return f"Scores({self})"

    def __str__(self) -> str:
        parts = []
        for name, mean in sorted(self.means().items()):
            scale, unit = (100, "%") if name == "accuracy" else (1, "")
            parts.append(f"{name} {scale * mean:.4g}{unit} ± {scale * self.interval(name):.2g}{unit}")
        parts += [f"{name.replace('_', ' ')} {value:.3f}" for name, value in self.pooled.items()]
        return f"{', '.join(parts)} ({self.n_tasks} {self.split} tasks, 95% interval over tasks)"


def mean_of(values: list[float]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    there = [value for value in values if not math.isnan(value)]
    try:
        return math.fsum(there) / len(there) if there else math.nan
    except (OverflowError, ValueError):  # too large, or infinities of both signs
        return sum(there) / len(there)


def interval_of(values: Iterable[float]) -> float:
    """Half the width of the 95% interval of the mean of the values that are not NaN, Student's t.

    inf if there are fewer than two, or if one of them is infinite.
    """
    from scipy.special import stdtrit

    there = [value for value in values if not math.isnan(value)]
    if len(there) < 2 or not all(map(math.isfinite, there)):
        return math.inf
    return float(stdtrit(len(there) - 1, 0.975)) * statistics.stdev(there) / math.sqrt(len(there))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module and all its parts in evaluation mode; afterwards each is in its previous mode again."""
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


@checked
@torch.no_grad()
def evaluate(
    learner: Learner,
    tasks: EpisodeSampler,
    *,
    split: Split = "test",
    n_tasks: Count = 600,
    seed: Whole = 0,
    batch: Count = 50,
    objective: Callable[[Learner], Objective] = QueryLoss,
    distributed: bool = False,
) -> Scores:
    """Score a learner on the tasks 0 ... n_tasks - 1 of the list (split, seed).

    The learner is in evaluation mode meanwhile: batch norm uses its running statistics and does not update them.
    Scores are computed in the precision of the weights.

    Args:
        learner: any learner whose spec covers the tasks.
        tasks: any sampler.
        split: which classes.
        n_tasks: how many tasks; the interval is over tasks.
        seed: another seed gives another list.
        batch: tasks at a time, for memory; no score depends on it.
        objective: which predictions are scored: QueryLoss those for the queries, StreamLoss those at every step of
            the sequence of support and queries, `metabox.views.Views` those averaged over views of each image.
        distributed: share the batches among the processes of torch.distributed. Each calls this with the same
            arguments and gets the scores of all tasks, the same as one process would.

    Raises:
        ValueError: if the tasks are not of the kind that the learner was built for, or if data or predictions are not
            finite, naming which.
    """
    place = Place(n_tasks, split, seed=seed)
    if device_of(learner).type == "cpu":
        keep_freed_memory()
    predictor = check("objective(learner)", objective(learner), Objective)
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    batches = []
    with evaluating(learner):
        firsts = range(0, n_tasks, batch)[rank::ranks]
        # Seen in a terminal and a notebook only, and gone at the end; not at all if it is over at once.
        for first in tqdm(firsts, desc=f"{split} tasks", leave=False, delay=1, disable=None if rank == 0 else True):
            part = replace(place, n_tasks=min(batch, n_tasks - first), first=first)
            batches.append(score_batch(predictor, tasks, part))
    if distributed:
        batches = _of_all_ranks(batches, len(range(0, n_tasks, batch)))
    for scored in batches:  # of all processes, so that all of them raise
        if scored.fault:
            raise ValueError(scored.fault)
    columns: dict[str, list[Tensor]] = {}
    for scored in batches:
        for name, values in scored.columns.items():
            columns.setdefault(name, []).append(values)
    names = [name for scored in batches for name in scored.names]
    confidence = [part for scored in batches for part in scored.confidence]
    correct = [part for scored in batches for part in scored.correct]
    # A k-th instance that is missing from a batch is not a score of all tasks.
    per_task = {name: torch.cat(parts).tolist() for name, parts in columns.items() if sum(map(len, parts)) == n_tasks}
    pooled = {"calibration_error": calibration_error(torch.cat(confidence), torch.cat(correct))} if confidence else {}
    return Scores(split, seed, per_task, names, pooled | ranking_scores([scored.ranked for scored in batches]))


def device_of(learner: Learner) -> torch.device:
    return next((p.device for p in learner.parameters()), torch.device("cpu"))


class Scored(NamedTuple):
    """One batch: the scores of its tasks by metric, their names, each query's confidence and correctness, a fault.

    ranked: see `Target.ranked`
    """

    columns: dict[str, Tensor]
    names: list[str]
    confidence: list[Tensor]
    correct: list[Tensor]
    ranked: Ranked = MappingProxyType({})
    fault: str | None = None


def score_batch(predictor: Objective, tasks: EpisodeSampler, place: Place) -> Scored:
    """Draw one batch of tasks and score it.

    Raises:
        ValueError: as for `evaluate`, except that what is not finite is returned as a fault.
    """
    spec = predictor.learner.spec
    if not spec.covers(tasks.spec):
        raise ValueError(f"expected tasks of at most {spec.target.size} classes, got {tasks.spec.target.size}")
    device, last = device_of(predictor.learner), place.first + place.n_tasks - 1
    among = f"the {place.split} tasks {place.first} ... {last}"
    episodes = tasks.sample(place, device).blanked()
    if not bool(episodes.query.mask.any(1).all()):
        raise ValueError(f"expected a query in every task, got a task without one among {among}")
    try:
        scored = _scored(predictor, episodes)
    except ValueError as error:
        raise ValueError(f"{error}; seen in {among}") from error
    sure = ("nll", "loss", "accuracy")  # which every task has
    if all(bool(scored.columns[name].isfinite().all()) for name in sure if name in scored.columns):
        return scored
    try:
        predictor.learner.check_episodes(episodes)
        fault = f"{among}, whose data are finite; the learner's weights are damaged or diverged"
        return scored._replace(fault=f"expected finite predictions, got NaN or infinity in {fault}")
    except ValueError as error:
        return scored._replace(fault=f"{error}; seen in {among}")


def _scored(predictor: Objective, episodes: Episodes) -> Scored:
    learner, target = predictor.learner, predictor.target_of(episodes)
    params, query = predictor.predictions(episodes)
    values = target.scores(params, query.y)
    if target.has_density:
        means = {"nll": predictor.nll(episodes, params, query)}
    else:
        means = {"loss": predictor.losses(params, query, episodes)[0]}
    means |= {name: score_mean(value, query.mask) for name, value in values.items()}
    if isinstance(predictor, StreamLoss) and isinstance(target, Classes):
        means |= accuracy_by_instance(values["accuracy"], query)
    if target.has_density and episodes.oracle is not None and not isinstance(predictor, StreamLoss):
        means["gap_to_oracle"] = means["nll"] + episodes.oracle
    scored = Scored({name: mean.double().cpu() for name, mean in means.items()}, [], [], [])
    if episodes.task is not None:
        scored.names.extend(learner.spec.tasks[i] for i in episodes.task.tolist())
    if isinstance(target, Classes):
        top = target.log_probs(params).max(-1).values.exp()
        scored.confidence.append(top[query.mask].cpu())
        scored.correct.append(values["accuracy"][query.mask].cpu())
    return scored._replace(ranked=target.ranked(params, query.y, query.mask))


def _of_all_ranks(mine: list[Scored], n_batches: int) -> list[Scored]:
    """The batches of every process in the order of the list; batch i was scored by process i % ranks."""
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return [parts[i % len(parts)][i // len(parts)] for i in range(n_batches)]


def accuracy_by_instance(correct: Tensor, examples: Examples) -> dict[str, Tensor]:
    """The accuracy at each class's first, second, ... instance in a sequence: correct `[T, N]` -> k: `[T]`.

    The mean over the classes with a k-th instance, for those k that every task has.
    """
    same = (examples.y[:, :, None] == examples.y[:, None, :]) & examples.mask[:, None, :]
    instance = torch.where(examples.mask, same.tril().sum(-1), 0)  # [T, N], from 1
    by_k = {}
    for k in range(1, int(instance.max()) + 1):
        at_k = instance == k
        if not bool(at_k.any(1).all()):
            break
        by_k[f"accuracy_instance_{k}"] = task_mean(correct, at_k)
    return by_k


def pretrained(learner: Learner) -> str | None:
    """The source of pre-trained initial weights, with their hash; None if all were drawn at random."""
    origins = {module.origin for module in learner.modules() if isinstance(module, Backbone) and module.origin}
    return "; ".join(sorted(origins)) or None


def normalisation(learner: Learner) -> dict[str, Any]:
    """What a result must report: batch norm's statistics, whether queries see each other, the source of the weights."""
    kinds = {module.norm for module in learner.modules() if isinstance(module, Backbone)} or {"none"}
    return {
        "pretrained": pretrained(learner),
        "batch_norm": "; ".join(NORMS[kind] for kind in sorted(kinds)),
        "transductive": learner.transductive or "transductive" in kinds,
    }


def calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """The expected calibration error of predictions: confidence `[K]`, correct (0 or 1) `[K]`."""
    from torchmetrics.functional.classification import binary_calibration_error

    # A top-label prediction is a binary one: "this label is right", with this confidence.
    return float(binary_calibration_error(confidence.float(), correct.long(), n_bins=15, norm="l1"))
