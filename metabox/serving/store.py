"""The tasks that a server keeps: what was learned, and the examples, so that more can be added."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from metabox.adaptation import Adaptation
from metabox.serving.limits import Limits, Refused


@dataclass(frozen=True)
class Task:
    """A task that was learned.

    adaptation: what was learned
    x: the examples, preprocessed
    y: the name of the class of each, or its numbers
    name: that the task answers to
    """

    adaptation: Adaptation
    x: Tensor
    y: list[Any]
    name: str = field(default_factory=lambda: secrets.token_urlsafe(9))

    @property
    def n_bytes(self) -> int:
        return self.adaptation.n_bytes + self.x.numel() * self.x.element_size()

    def as_json(self) -> dict[str, Any]:
        about: dict[str, Any] = {"id": self.name, "n_examples": len(self.y), "bytes": self.n_bytes}
        if self.adaptation.classes is not None:
            about["classes"] = {name: self.y.count(name) for name in self.adaptation.classes}
        return about


class Store:
    """Tasks by name, as many as the limits allow: the least recently used ones are forgotten."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tasks: OrderedDict[str, Task] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tasks)

    def all(self) -> list[Task]:
        return list(self._tasks.values())

    def get(self, name: str) -> Task:
        """A task, which counts as used.

        Raises:
            Refused: if there is none.
        """
        if name not in self._tasks:
            raise Refused(404, f"expected a task that is kept, got {name[:40]!r}; it was never made, or is forgotten")
        self._tasks.move_to_end(name)
        return self._tasks[name]

    def put(self, task: Task, instead: Task | None = None) -> list[str]:
        """Keep a task, new or instead of one with its name; returns the names of those forgotten for it.

        Raises:
            Refused: if the other one was changed or forgotten meanwhile, or the task alone is too large.
        """
        if instead is not None and self._tasks.get(instead.name) is not instead:
            raise Refused(409, "expected a task that nobody else changes at the same time; ask again")
        if task.n_bytes > self._limits.kept_bytes:
            raise Refused(413, f"expected a task of at most {self._limits.kept_bytes:,} bytes, got {task.n_bytes:,}")
        self._tasks[task.name] = task
        self._tasks.move_to_end(task.name)
        forgotten = []
        while len(self) > self._limits.tasks or sum(t.n_bytes for t in self.all()) > self._limits.kept_bytes:
            forgotten.append(self._tasks.popitem(last=False)[0])
        return forgotten

    def forget(self, name: str) -> None:
        """Raises:
        Refused: if there is no such task.
        """
        self.get(name)
        del self._tasks[name]
