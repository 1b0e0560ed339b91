"""The transfer table: tasks trained alone, in pairs and all together, and which groups of them are best."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metabox.checks import checked
from metabox.episodes import Split
from metabox.evaluation import Scores, evaluate
from metabox.files import write_json
from metabox.multitask.affinity import TaskAffinity, read_affinity
from metabox.multitask.gains import TransferTable
from metabox.multitask.grouping import MOST_GROUPED, Group, best_groups, groups_by_pairs
from metabox.objectives import QueryLoss
from metabox.ranges import Count, Whole
from metabox.targets.spec import Scale
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.subset import Subset
from metabox.training.loop import MakeLearner, MakeObjective, check, run
from metabox.training.selection import Select
from metabox.training.settings import OuterLoop
from metabox.training.weighting import task_names

ALL_PAIRS = 6
"""Tasks of which all pairs are trained, at most; of more, pairs have to be named."""
ALL_GROUPS = 5
"""Tasks of which all groups are trained, at most, so that the best division is known."""


@checked
def transfer_table(
    tasks: EpisodeSampler,
    learner: MakeLearner,
    outer: OuterLoop,
    *,
    metric: str | dict[str, str],
    pairs: list[tuple[str, str]] | None = None,
    seeds: tuple[Whole, ...] = (0, 1, 2),
    evaluation: EpisodeSampler | None = None,
    n_test: Count = 20,
    every: Count = 10,
    objective: MakeObjective | None = None,
    scale: Scale = "training",
    out: str | Path,
    tell: Callable[[str], object] = print,
) -> TransferTable:
    """Train tasks alone, in pairs and all together, and say which of them to train together.

    Every run has the steps of `outer`, and in each step as many rows of every task: `outer.n_tasks` for each named
    task, or for all parts together, which have the same examples. Its cost is told first. Calling it again with the
    same arguments goes on where it was stopped.

    Groups are chosen on the validation split in two ways: by the affinity between tasks that is measured in the joint
    run (`metabox.multitask.affinity`), and by the gains in pairs (`groups_by_pairs`). With at most 5 tasks every group
    is trained, so that both are compared with the best division. Gains are those of the test split.

    Args:
        tasks: `FiniteTasks` with named tasks, or any sampler whose target has parts.
        learner: builds a learner for some of the tasks from a `TaskSpec`; they must share parameters.
        outer: settings of each run; `n_tasks` and `n_validation` count rows of each named task.
        metric: the score that tells a gain, of all tasks or by task, such as "squared_error"; the best weights of a
            run are chosen by it too. Scores must not be 0, since gains are relative.
        pairs: those to train, by default all of at most 6 tasks, and none of more.
        seeds: of the runs; the unit of the intervals.
        evaluation: sampler of the validation and test tasks; by default that of the training tasks.
        n_test: rows of the evaluations for each named task, or for all parts together.
        every: steps between two measurements of affinity.
        objective: what is minimised; by default `QueryLoss`.
        scale: as in `run`.
        out: folder for the runs and `transfer.json`.
        tell: takes the lines that say what is done.

    Raises:
        ValueError: for fewer than two tasks or parts, unknown names in pairs, or no seeds; as `run`.
    """
    trainer = _Trainer(tasks, learner, outer, metric, seeds, evaluation or tasks, n_test, objective, scale, Path(out))
    names = trainer.names
    wanted = _groups(names, pairs)
    trainer.check()
    tell(_cost(names, wanted, len(seeds), outer, bool(tasks.spec.tasks)))
    for number, group in enumerate(wanted, 1):
        tell(f"{number} of {len(wanted)}: {' + '.join(group)}")
        trainer.train(group, every)
    found = TransferTable(names, trainer.metrics, trainer.scores, trainer.affinity(), {})
    groupings = _groupings(found)
    for group in dict.fromkeys(group for division in groupings.values() for group in division):
        if group not in trainer.scores["test"]:
            tell(f"for a grouping: {' + '.join(group)}")
            trainer.train(group, every)
    found = replace(found, groupings=groupings)
    write_json(Path(out) / "transfer.json", found.as_json())
    return found


class _Trainer:
    """Trains groups of tasks, and keeps their scores."""

    def __init__(
        self,
        tasks: EpisodeSampler,
        learner: MakeLearner,
        outer: OuterLoop,
        metric: str | Mapping[str, str],
        seeds: Sequence[int],
        evaluation: EpisodeSampler,
        n_test: int,
        objective: MakeObjective | None,
        scale: Scale,
        out: Path,
    ) -> None:
        self.tasks, self.learner, self.outer, self.evaluation = tasks, learner, outer, evaluation
        self.seeds, self.n_test, self.objective, self.scale, self.out = seeds, n_test, objective, scale, out
        spec = tasks.spec
        self.names = tuple(name for name in task_names(spec) if name not in spec.untrained)
        self.metrics = dict.fromkeys(self.names, metric) if isinstance(metric, str) else dict(metric)
        if set(self.metrics) != set(self.names):
            raise ValueError(f"expected the metric of each of {list(self.names)}, got those of {list(self.metrics)}")
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"expected one or more different seeds, got {list(seeds)}")
        self.scores: dict[Split, dict[Group, dict[str, list[float]]]] = {"val": {}, "test": {}}

    def folder(self, group: Group, seed: int) -> Path:
        short = "+".join(re.sub(r"\W+", "-", name)[:24] for name in group) if len(group) < 4 else ""
        number = "-".join(str(self.names.index(name)) for name in group) if len(group) < len(self.names) else "all"
        return self.out / f"{number}{f'-{short}' if short else ''}-seed{seed}"

    def check(self) -> None:
        """Refuse what can be refused before anything is trained: the joint run, and one task alone."""
        for group in self.names, self.names[:1]:
            tasks, outer, options = self._arguments(group, 10)
            check(tasks, self.learner, outer, **options)

    def _arguments(self, group: Group, every: int) -> tuple[Subset, OuterLoop, dict[str, Any]]:
        times = len(group) if self.tasks.spec.tasks else 1
        outer = replace(self.outer, n_tasks=times * self.outer.n_tasks, n_validation=times * self.outer.n_validation)
        metrics = {self.metrics[name] for name in group}
        options = {
            "evaluation": Subset(self.evaluation, group),
            "objective": self.objective,
            "scale": self.scale,
            "hooks": [TaskAffinity(every)] if group == self.names and len(group) <= MOST_GROUPED else [],
            "select": Select(metrics.pop()) if len(metrics) == 1 else None,
        }
        return Subset(self.tasks, group), outer, options

    def train(self, group: Group, every: int) -> None:
        """Train and score one group with every seed; a finished run is only scored."""
        tasks, outer, options = self._arguments(group, every)
        n_tasks = outer.n_tasks // self.outer.n_tasks * self.n_test
        for split in self.scores:
            self.scores[split][group] = {name: [] for name in group}
        for seed in self.seeds:
            learner = run(tasks, self.learner, outer, **options, seed=seed, out=self.folder(group, seed))
            for split, known in self.scores.items():
                judged, objective = options["evaluation"], self.objective or QueryLoss
                scores = evaluate(learner, judged, split=split, n_tasks=n_tasks, objective=objective)
                for name in group:
                    known[group][name].append(_score(scores, name, self.metrics[name]))

    def affinity(self) -> Tensor:
        """The mean over steps and seeds of that in the joint runs, NaN on the diagonal: `[K, K]`."""
        if len(self.names) > MOST_GROUPED:
            return torch.full([len(self.names)] * 2, torch.nan)
        paths = [self.folder(self.names, seed) / "hooks" / "affinity.json" for seed in self.seeds]
        mean = torch.stack([read_affinity(path)[2].nanmean(0) for path in paths]).nanmean(0)
        return mean.fill_diagonal_(torch.nan)


def _groups(names: Group, pairs: Iterable[tuple[str, str]] | None) -> list[Group]:
    """Those that are trained in any case, each in the order of the names."""
    if pairs is None:
        chosen = [*combinations(names, 2)] if len(names) <= ALL_PAIRS else []
    else:
        if wrong := [pair for pair in pairs if len(set(pair)) < 2 or not set(pair) <= set(names)]:
            raise ValueError(f"expected pairs of different tasks among {list(names)}, got {wrong}")
        chosen = [(a, b) if names.index(a) < names.index(b) else (b, a) for a, b in pairs]
    larger = range(3, len(names)) if pairs is None and len(names) <= ALL_GROUPS else ()
    more = [group for size in larger for group in combinations(names, size)]
    return list(dict.fromkeys([*((name,) for name in names), *chosen, *more, names]))


def _cost(names: Group, groups: list[Group], seeds: int, outer: OuterLoop, named: bool) -> str:
    rows = outer.n_tasks * sum(len(group) if named else 1 for group in groups)
    runs, complete = len(groups) * seeds, len(groups) == 2 ** len(names) - 1
    return (
        f"transfer table of {len(names)} tasks: {len(groups)} groups with {seeds} seeds each, {runs} runs of "
        f"{outer.steps} steps, {rows * seeds * outer.steps:,} rows of tasks in all"
        + ("" if complete else ", and those of the chosen groups that are not among them")
    )


def _score(scores: Scores, name: str, metric: str) -> float:
    """The score of one task or part."""
    column = metric if metric in scores.per_task else f"{metric}_{name}"
    if column not in scores.per_task:
        raise ValueError(f"expected a metric among {sorted(scores.per_task)}, got {metric!r} for {name!r}")
    return scores.by_task(column)[name] if scores.tasks else scores.mean(column)


def _groupings(found: TransferTable) -> dict[str, tuple[Group, ...]]:
    """The divisions that the validation split and the affinity choose."""
    names = found.tasks
    groupings: dict[str, tuple[Group, ...]] = {"alone": tuple((name,) for name in names), "together": (names,)}
    if len(names) > MOST_GROUPED:
        return groupings
    groupings["affinity"] = groups_by_pairs(names, found.affinity)
    if not (pairs := found.pairs("val")).isnan().all():
        groupings["pairs"] = groups_by_pairs(names, pairs)
    known = found.scores["val"]
    if len(known) == 2 ** len(names) - 1:
        groupings["best"] = best_groups(
            names, lambda group: sum(row["delta"] for row in found.gains(group, "val")[:-1]) if len(group) > 1 else 0.0
        )
    return groupings
