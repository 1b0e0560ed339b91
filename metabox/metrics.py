"""What a run says of itself while it goes: metrics.jsonl and TensorBoard events."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from metabox.files import write_text


@dataclass
class Window:
    """Sums over the steps since the last line of the log; part of a checkpoint, so that no line changes by a resume."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    tasks: int = 0
    seconds: float = 0.0

    def add(self, values: dict[str, float], tasks: int, seconds: float) -> None:
        for name, value in values.items():
            if not math.isnan(value):  # no task of this step has the score
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1
        self.steps, self.tasks, self.seconds = self.steps + 1, self.tasks + tasks, self.seconds + seconds

    def means(self) -> dict[str, float]:
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        return means | {"tasks_per_s": self.tasks / self.seconds}


class Metrics:
    """metrics.jsonl and TensorBoard events of a run, without the lines that a resumed run will write again."""

    def __init__(self, out: Path, step: int, enabled: bool) -> None:
        self.path, self.enabled = out / "metrics.jsonl", enabled
        if enabled:
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
            write_text(self.path, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))
            self.events = SummaryWriter(out / "tensorboard", purge_step=step + 1)

    def write(self, step: int, **values: Any) -> None:
        if not self.enabled:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            for part, number in value.items() if isinstance(value, dict) else [("", value)]:
                self.events.add_scalar(f"{name}/{part}".rstrip("/"), number, step)

    def close(self) -> None:
        if self.enabled:
            self.events.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # the process was killed while it wrote this line
        return math.inf
