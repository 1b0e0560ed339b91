"""The speed and memory of a run. Standard library only, because a worker of another checkout imports this."""

from __future__ import annotations

import ctypes
import gc
import json
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def log_of(run: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def blocks(out: str | Path) -> list[tuple[int, float]]:
    """The steps of a run between validations, and their seconds without validation."""
    ends = [(0, 0.0), *((line["step"], line["seconds"]) for line in log_of(out) if "val" in line)]
    return [(step - s, seconds - t) for (s, t), (step, seconds) in pairwise(ends)]


def memory_mb(field: str = "VmHWM") -> float:
    """The peak memory of this process alone (getrusage would include its parent); NaN if there is no /proc."""
    if not STATUS.exists():
        return float("nan")
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def forget_peak() -> float:
    """From here on `memory_mb` is the largest memory since; returns what the process holds at this moment, in MB."""
    gc.collect()
    with suppress(AttributeError, OSError):  # another C library than GNU's
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        REFERENCES.write_text("5", encoding="ascii")
    return memory_mb("VmRSS")
