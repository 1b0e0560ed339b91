"""A command of metabox as a child process that ends when its parent does, however that ended.

It is started by the path of this file. Python then searches the file's folder instead of the working directory, and
this folder is removed from the search path below: nothing in the user's working directory is imported. metabox itself
is the one that this file belongs to, whether it was installed, is a checkout in PYTHONPATH, or neither. Fabric starts
its processes for further devices in the same way.

Standard input is a pipe that nothing is written to. The kernel closes it when the parent ends.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    _here = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [folder for folder in sys.path if folder and os.path.realpath(folder) != _here]

import importlib.util
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

LOG = "train.log"


def execute(
    arguments: list[str], folder: str, started: Callable[[subprocess.Popen[bytes]], object] = lambda process: None
) -> str | None:
    """Run a command with its output in the folder's log; returns the reason of a failure in one line, else None.

    Args:
        arguments: of `metabox`.
        folder: of the run.
        started: called with the process once it has started.
    """
    path = Path(folder) / LOG
    if path.is_symlink():
        return f"expected a log of its own, got a symbolic link in {path}; remove it"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            begin = log.tell()
            code = _run(arguments, log, started)
        return _reason(code, path, begin) if code else None
    except OSError as error:
        return f"could not run in {folder}: {error.strerror or error}"


def _run(arguments: list[str], log: IO[bytes], started: Callable[[subprocess.Popen[bytes]], object]) -> int:
    # Without "", which means the working directory.
    searched = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": os.pathsep.join(searched)} if searched else {}
    command = [sys.executable, os.path.abspath(__file__), *arguments]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
    ) as process:
        started(process)
        return process.wait()  # `communicate` would close the pipe


def _reason(code: int, path: Path, begin: int) -> str:
    """The last line of the log, metabox's own if there is one; and the signal, if one ended the process."""
    with path.open("rb") as log:
        log.seek(max(begin, path.stat().st_size - 10_000))
        text = log.read().decode(errors="replace")
    lines = ["".join(c if c.isprintable() else " " for c in line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    last = next((line for line in reversed(lines) if line.startswith("metabox: ")), lines[-1] if lines else "")
    reason = last.removeprefix("metabox: ").removeprefix("error: ")[:500]
    if code > 0:
        return reason or f"exit code {code}, and nothing in its log"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"ended by {name}" + (f" after: {reason}" if reason else "")


def _end_with_parent() -> None:
    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)  # as by SIGKILL: resuming from a checkpoint is exact, and another process may be about to do so

    threading.Thread(target=wait, daemon=True).start()


def _load_metabox() -> None:
    """Import the package of this file without searching its parent folder, which may be the working directory."""
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "__init__.py")
    spec = importlib.util.spec_from_file_location("metabox", path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    sys.modules["metabox"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["metabox"])


if __name__ == "__main__":
    _end_with_parent()
    _load_metabox()
    from metabox.cli.main import main

    sys.exit(main())
