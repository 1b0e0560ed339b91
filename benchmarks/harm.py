"""Ways to damage a run folder, for tests and campaigns: kills at every write, flipped bits, a full disk.

Work is a function without arguments. It runs in a forked child of a parent that has imported everything.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

Work = Callable[[], object]
REFUSED = 3
"""Exit status of work that raised an OSError or ValueError of one line, as the command line shows them."""
EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"}


@contextmanager
def quiet_fork() -> Iterator[None]:
    """Python 3.12 warns about forking with threads; none of them holds a lock that the work needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def forked(work: Work) -> tuple[int, str]:
    """Run work in a child; returns its exit status, or minus the signal that ended it, and its output."""
    come, go = os.pipe()
    with quiet_fork():
        child = os.fork()
    if child:
        os.close(go)
        with os.fdopen(come, errors="replace") as stream:
            said = stream.read()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said
    status = 1
    try:
        for number in (1, 2):
            os.dup2(go, number)
        sys.stdout = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  # pytest has replaced them
        try:
            work()
            status = 0
        except (OSError, ValueError) as error:
            print(error)
            status = REFUSED
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
    finally:
        os._exit(status)


def killed_at(work: Work, folder: Path, number: int) -> Work:
    """The work, which kills itself before it touches a file below the folder for the time `number`, from 1."""

    def kill(count: int) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return _watched(work, folder, kill)


def touches(work: Work, folder: Path) -> int:
    """How often the work touches files below the folder: the number of moments to kill it at."""
    counts = [0]
    status, said = forked(lambda: (_watched(work, folder, counts.append)(), print(f"\n{counts[-1]}")))
    if status:
        raise ValueError(f"expected work that ends well, got exit status {status}: {said}")
    return int(said.split()[-1])


def _watched(work: Work, folder: Path, see: Callable[[int], object]) -> Work:
    def harmed() -> None:
        count, below = 0, os.path.realpath(folder)

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event not in EVENTS:
                return
            beside = event in ("os.remove", "os.rmdir") and arguments[1] != -1  # of an open folder, as in rmtree
            if beside or str(arguments[0]).startswith(below):
                count += 1
                see(count)

        sys.addaudithook(watch)
        work()

    return harmed


def with_disk_of(work: Work, size: int) -> Work:
    """The work, on a disk where no file can be longer than `size` bytes."""

    def harmed() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        work()

    return harmed


def flips(folder: Path, count: int, seed: int = 0) -> Iterator[tuple[Path, int]]:
    """Positions of single bits, `count` in all, evenly over the nonempty files below a folder."""
    random = Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    for number in range(count):
        path = files[number % len(files)]
        yield path, random.randrange(8 * path.stat().st_size)


def flip(path: Path, bit: int) -> None:
    """Flip one bit of a file; flipping it again restores the file."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
