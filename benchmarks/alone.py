"""Calls in isolated processes with a time limit, so that one that fails or hangs does not affect the others."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

Tell = Callable[[dict[str, Any]], None]


class Alone:
    """A call in a process of its own, killed after a time limit together with all processes that it has started.

    It is forked, so that nothing is imported again; the parent never initialises CUDA.

    Args:
        call: takes a function that reports its findings so far, part by part, and then `arguments`.
        seconds: time limit.
    """

    method = "fork"

    def __init__(self, call: Callable[..., None], *arguments: Any, seconds: float) -> None:
        context: Any = multiprocessing.get_context(self.method)
        self.seconds, self.end = seconds, time.monotonic() + seconds
        self.ours, theirs = context.Pipe(duplex=False)
        handle, self.printed = tempfile.mkstemp(suffix=".txt")
        os.close(handle)
        self.process = context.Process(target=_answer, args=(theirs, self.printed, call, arguments))
        self.process.start()
        theirs.close()

    def result(self) -> dict[str, Any]:
        """What the call has reported; `left_out` says why it is incomplete."""
        found: dict[str, Any] = {}
        try:
            while self.ours.poll(max(0.0, self.end - time.monotonic())):
                found |= self.ours.recv()
            found["left_out"] = f"not done after {self.seconds:.0f} s"
        except EOFError:
            self.process.join(5)
            if self.process.exitcode:
                found.setdefault("left_out", f"its process ended with {self.process.exitcode}")
        _end(self.process.pid)
        self.process.join()
        lines = Path(self.printed).read_text(encoding="utf-8", errors="replace").splitlines()
        if "left_out" in found and lines:
            found["printed"] = [line[:300] for line in lines[-3:]]
        Path(self.printed).unlink()
        return found


def _answer(theirs: Any, printed: str, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.setsid()
    file = os.open(printed, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage()[:300])  # type: ignore[method-assign]
    logging.getLogger("metabox").addHandler(handler)
    try:
        call(theirs.send, *arguments)
    except BaseException as error:
        theirs.send({"left_out": f"{type(error).__name__}: {first_line(str(error))}"})
    if said:
        theirs.send({"said": said})
    theirs.close()
    os._exit(0)  # without waiting for the compilers' threads


def _end(pid: int | None) -> None:
    """Kill a process and the process group that it leads or will lead."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            if pid:
                kill(pid, signal.SIGKILL)


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:300]
