"""The progress of a run: the state in a checkpoint beside tensors, and the metrics of steps."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from metabox.training.checkpoints import Checkpoints
from metabox.training.settings import OuterLoop


@dataclass
class Window:
    """Sums over the steps since the last line of the log; part of a checkpoint, so that resuming changes no line."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    tasks: int = 0
    seconds: float = 0.0

    def add(self, values: dict[str, float], tasks: int) -> None:
        for name, value in values.items():
            if not math.isnan(value):  # NaN: no task of this step has the score
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1
        self.steps, self.tasks = self.steps + 1, self.tasks + tasks

    def means(self) -> dict[str, float]:
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        return means | {"tasks_per_s": self.tasks / self.seconds}


class Best(TypedDict):
    """The best validation: its step, and its score, of which more is better."""

    step: int
    value: float


@dataclass
class Progress:
    """The state of a run, except its tensors.

    Args:
        step: number of steps made.
        best: the best validation and its step.
        since_best: number of validations since then.
        skipped: number of steps whose loss or gradient was not finite.
        skipped_in_a_row: number of them since the last good step.
        seconds: of training, without validation.
        window: of the next line of the log.
    """

    step: int = 0
    best: Best | None = None
    since_best: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    window: Window = field(default_factory=Window)

    @classmethod
    def read(cls, state: Any, where: Path) -> Progress:
        """The progress from the state in a checkpoint; that of a new run for None.

        Raises:
            ValueError: if the state is not valid; the message names the run folder.
        """
        try:
            progress = cls() if state is None else cls(**state | {"window": Window(**state["window"])})
            valid = (state is None or state.keys() == progress.as_json().keys()) and progress._is_valid()
        except (AttributeError, KeyError, TypeError):
            valid = False
        if not valid:
            raise ValueError(f"expected the progress of a run in the newest checkpoint of {where}, got something else")
        return progress

    def _is_valid(self) -> bool:
        counts, window = (self.step, self.since_best, self.skipped, self.skipped_in_a_row), self.window
        numbers = [*window.sums.values(), *window.counts.values(), window.steps, window.tasks, window.seconds]
        return (
            all(type(count) is int and count >= 0 for count in counts)
            and isinstance(self.seconds, float)
            and (self.best is None or (type(self.best["step"]) is int and isinstance(self.best["value"], (int, float))))
            and window.sums.keys() == window.counts.keys()
            and all(isinstance(number, (int, float)) for number in numbers)
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def finished(self, outer: OuterLoop) -> bool:
        return self.step >= outer.steps or 0 < outer.patience <= self.since_best


class Meter:
    """The metrics of steps, which stay on the device until they are read, and the clock.

    Args:
        progress: what they are added to.
        outer: the settings.
        checkpoints: of the run.
    """

    def __init__(self, progress: Progress, outer: OuterLoop, checkpoints: Checkpoints) -> None:
        self.progress, self.outer, self.checkpoints = progress, outer, checkpoints
        self.names: list[list[str]] = []
        self.rows: list[Tensor] = []
        self.start()

    def start(self) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def add(self, good: Tensor, numbers: dict[str, Tensor]) -> None:
        """Add the metrics of one step, each `[]`; they are ignored if the step was not good."""
        self.names.append(list(numbers))
        self.rows.append(torch.stack([good.float(), *numbers.values()]))
        self.progress.step += 1

    def read(self) -> None:
        """Wait for the device, and add the steps and seconds since the last call.

        Raises:
            FloatingPointError: after `max_skipped` steps in a row that were not good.
        """
        progress, window = self.progress, self.progress.window
        values = iter(torch.cat(self.rows).tolist() if self.rows else [])
        seconds = time.perf_counter() - self.started
        progress.seconds += seconds
        window.seconds += seconds
        step = progress.step - len(self.rows)
        for names in self.names:
            if next(values):
                window.add({name: next(values) for name in names}, self.outer.n_tasks)
                progress.skipped_in_a_row = 0
            else:
                _ = [next(values) for _ in names]
                progress.skipped += 1
                progress.skipped_in_a_row += 1
            if progress.skipped_in_a_row == self.outer.max_skipped:
                raise FloatingPointError(
                    f"the loss or its gradient was not finite in {self.outer.max_skipped} steps in a row, "
                    f"up to step {step}; {self.checkpoints.newest()}. Lower lr or clip, or use precision 32"
                )
            step += 1
        self.names, self.rows = [], []
        self.start()
