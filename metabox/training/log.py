"""The log of a run: metrics.jsonl and TensorBoard events."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar

from metabox.files import append, write_text

log = logging.getLogger(__name__)


class Metrics:
    """metrics.jsonl and TensorBoard events of a run, without the lines that a resumed run will write again.

    `write` returns once everything is on disk: no thread can hide errors, and a kill loses nothing.

    Args:
        out: the run folder.
        step: that the run resumes from. Later lines are dropped; invalid ones too, with a warning.
        enabled: whether this process writes.
    """

    def __init__(self, out: Path, step: int, enabled: bool) -> None:
        self.path, self.enabled = out / "metrics.jsonl", enabled
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self.events = out / "tensorboard" / name
        if enabled:
            write_text(self.path, "".join(f"{line}\n" for line in _lines_until(self.path, step)))
            self._append_events(
                Event(wall_time=time.time(), file_version="brain.Event:2"),
                Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START)),
            )

    def write(self, step: int, **values: Any) -> None:
        """
        Raises:
            OSError: if the disk is full; the message names the file.
        """
        if not self.enabled:
            return
        append(self.path, (json.dumps({"step": step, **values}) + "\n").encode())
        events = []
        for name, value in values.items():
            for part, number in value.items() if isinstance(value, dict) else [("", value)]:
                summary = scalar(f"{name}/{part}".rstrip("/"), number)
                events.append(Event(wall_time=time.time(), step=step, summary=summary))
        self._append_events(*events)

    def _append_events(self, *events: Event) -> None:
        writer = RecordWriter(stream := io.BytesIO())
        for event in events:
            writer.write(event.SerializeToString())
        append(self.events, stream.getvalue())


def _lines_until(path: Path, step: int) -> list[str]:
    """The lines of metrics.jsonl up to a step; invalid or incomplete ones are left out with a warning."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    kept = []
    for number, line in enumerate(lines, start=1):
        found = _step_of(line)
        if found is None and line:
            shown = line[:40].decode(errors="replace")
            log.warning("%s, line %d: expected a step and its numbers as JSON, got %r; left out", path, number, shown)
        elif found is not None and found <= step:
            kept.append(line.decode())
    return kept


def _step_of(line: bytes) -> int | None:
    try:
        step = json.loads(line.decode())["step"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None  # damaged, or the process was killed while writing this line
    return step if isinstance(step, int) else None
