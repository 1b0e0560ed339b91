"""A number for each pair of tasks, recorded while a run trains."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metabox.episodes import Episodes
from metabox.files import read_json, write_text
from metabox.multitask.weights import check_shared
from metabox.nn.towers import shared_parameters
from metabox.objectives import Objective
from metabox.ranges import Count
from metabox.training.hook import Hook
from metabox.training.weighting import task_names

MOST_COMPARED = 32
"""Named tasks that are compared with each other, at most."""


class RecordedPairs(Hook):
    """Writes a number for each pair of named tasks or parts, every few steps; a subclass says which.

    The file holds `tasks` (K names), `steps` (S numbers) and, under the name of the record, S x K x K numbers, null if
    undefined; see `read_pairs`.

    Args:
        every: steps between two measurements.
        tasks: names of those compared, 32 at most, since the file grows with the number of pairs; by default the first.

    Raises:
        ValueError: for fewer than one step, or names twice or too many; at the start of a run, if tasks have no such
            names or share no parameters, or the file belongs to another run.
    """

    record: ClassVar[str]
    """The name of the file and of the numbers in it."""
    digits: ClassVar[str] = ".4g"
    """How numbers are rounded in the file."""

    def __init__(self, every: Count = 100, tasks: tuple[str, ...] | None = None) -> None:
        if tasks is not None and not 2 <= len(set(tasks)) == len(tasks) <= MOST_COMPARED:
            raise ValueError(f"expected from 2 to {MOST_COMPARED} different tasks to compare, got {len(tasks)}")
        self.every, self.tasks = every, tasks

    @abstractmethod
    def measure(
        self, objective: Objective, episodes: Episodes, shared: Sequence[nn.Parameter], compared: Sequence[int]
    ) -> Tensor:
        """The number of each pair of the tasks `compared`, `[K, K]`, NaN if undefined; it changes nothing."""

    def check(self, objective: Objective) -> None:
        names = task_names(objective.learner.spec)
        if unknown := [name for name in self.tasks or () if name not in names]:
            raise ValueError(f"expected tasks to compare among {', '.join(names[:MOST_COMPARED])}, got {unknown}")
        check_shared(list(shared_parameters(objective.learner).values()))

    def begin(self, objective: Objective, folder: Path, step: int) -> None:
        self._objective, self._path = objective, folder / f"{self.record}.json"
        self._shared = check_shared(list(shared_parameters(objective.learner).values()))
        names = task_names(objective.learner.spec)
        tasks = list(self.tasks or names[:MOST_COMPARED])
        self._compared = [names.index(name) for name in tasks]
        record: dict[str, Any] = {"tasks": tasks, "steps": [], self.record: []}
        if step and self._path.exists():
            record = _checked(read_json(self._path), tasks, self.record, self._path)
        kept = sum(before < step for before in record["steps"])  # the later ones are measured again
        self._record = {name: values if name == "tasks" else values[:kept] for name, values in record.items()}
        self._write()

    def before_step(self, step: int, episodes: Episodes) -> None:
        if step % self.every:
            return
        pairs = self.measure(self._objective, episodes, self._shared, self._compared).tolist()
        rows = [[None if math.isnan(value) else float(format(value, self.digits)) for value in row] for row in pairs]
        self._record["steps"].append(step)
        self._record[self.record].append(rows)
        self._write()

    def _write(self) -> None:
        write_text(self._path, json.dumps(self._record) + "\n")


def read_pairs(path: str | Path, name: str) -> tuple[list[str], list[int], Tensor]:
    """Tasks, steps and numbers `[S, K, K]` of a file that `RecordedPairs` wrote, NaN if undefined."""
    record = read_json(path)
    values = [[[math.nan if value is None else value for value in row] for row in rows] for rows in record[name]]
    return record["tasks"], record["steps"], torch.tensor(values).view(-1, len(record["tasks"]), len(record["tasks"]))


def _checked(record: Any, tasks: list[str], name: str, path: Path) -> dict[str, Any]:
    named = isinstance(record, dict) and record.keys() == {"tasks", "steps", name}
    if not named or record["tasks"] != tasks or not all(isinstance(record[n], list) for n in ("steps", name)):
        raise ValueError(f"expected {path} to be of the tasks {tasks}, got another run's; delete it")
    if not all(type(step) is int for step in record["steps"]) or len(record["steps"]) != len(record[name]):
        raise ValueError(f"expected a matrix of {name} for each of the steps in {path}, got something else; delete it")
    return dict(record)
