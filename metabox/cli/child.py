"""A command of metabox as a process that ends when the one that started it does, however that ended.

It is started by the path of this file. Python searches the file's folder in place of the working directory then, and
this folder is taken off again below: whatever lies where a user happens to work is not imported. metabox itself is the
one that this file belongs to, whether it was installed, is a checkout in PYTHONPATH, or neither. A process that Fabric
starts for a further device is started in the same way.

Standard input is a pipe that nothing is written to. The kernel closes it when the starter ends.
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
    """Run a command, what it says going to the folder's log; returns why it failed in one line, None if it did not.

    Args:
        arguments: those of `metabox`.
        folder: of the run.
        started: told of the process once it goes.
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
    searched = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]  # "" would be here
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": os.pathsep.join(searched)} if searched else {}
    command = [sys.executable, os.path.abspath(__file__), *arguments]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
    ) as process:
        started(process)
        return process.wait()  # communicate would close the pipe


def _reason(code: int, path: Path, begin: int) -> str:
    """The last line of the log, or the last that is of metabox itself; and the signal, if one ended the process."""
    with path.open("rb") as log:
        log.seek(max(begin, path.stat().st_size - 10_000))
        text = log.read().decode(errors="replace")
    said = ["".join(c if c.isprintable() else " " for c in line).strip() for line in text.splitlines()]
    said = [line for line in said if line]
    last = next((line for line in reversed(said) if line.startswith("metabox: ")), said[-1] if said else "")
    reason = last.removeprefix("metabox: ").removeprefix("error: ")[:500]
    if code > 0:
        return reason or f"exit code {code}, and nothing in its log"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"ended by {name}" + (f" after: {reason}" if reason else "")


def _end_with_parent() -> None:
    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)  # as by SIGKILL: going on from a checkpoint is exact, and another process may be about to do so

    threading.Thread(target=wait, daemon=True).start()


def _load_metabox() -> None:
    """Import the package that this file is of without searching its folder's parent, which may be the working one."""
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
