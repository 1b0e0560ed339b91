"""The run folder: owned by one process at a time, which writes there and nowhere else."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from metabox.files import read_json, remove_orphans, write_json

LOCK, OWNER = ".lock", ".owner.json"
FILES = (
    *(LOCK, OWNER, "recipe.yaml", "best.safetensors", "metrics.jsonl"),
    *("environment.json", "model.json", "manifest.json"),
)
FOLDERS = ("checkpoints", "hooks", "results", "tensorboard")
"""What a run writes; other files in its folder are not touched."""
UNFINISHED = ".tmp-"
"""Prefix of folders that are being made or deleted."""


@contextmanager
def owned(folder: str | Path, leads: bool = True) -> Iterator[None]:
    """Own a run folder: inside, no other process writes in it. Leftovers of killed processes are deleted.

    The kernel releases the lock however a process ends, so a killed run blocks nobody. A process that owns the folder
    may call this again. The owner's process id and host are in `.owner.json` beside the lock.

    Args:
        folder: of the run; created if it does not exist.
        leads: whether this process is the one that writes (global rank 0); the others own nothing.

    Raises:
        ValueError: if another process or thread owns the folder, or a link in it leads out of it.
        OSError: if the folder cannot be created or locked.
    """
    folder = Path(folder).resolve()
    lock = FileLock(folder / LOCK, is_singleton=True)
    if not leads or lock.is_locked:  # by this thread
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    check_contained(folder)
    try:
        lock.acquire(timeout=0.5)
    except Timeout as error:
        raise ValueError(
            f"expected nobody else at work in {folder}, got {_owner(folder)}; wait for it, stop it, or use another "
            "folder"
        ) from error
    except OSError as error:
        raise OSError(f"could not lock {folder / LOCK}: {error.strerror or error}") from error
    try:
        clean(folder)
        write_json(folder / OWNER, {"pid": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def check_free(folder: Path) -> None:
    """Check before long work that its results can be written; leaves nothing in a folder that was never owned.

    Raises:
        ValueError: as for `owned`.
    """
    check_contained(folder)
    if (folder / LOCK).exists():
        with owned(folder):
            pass


def clean(folder: Path) -> None:
    """Delete what killed processes left unfinished. Only the owner of the folder may call it."""
    for part in (folder, *(folder / name for name in FOLDERS)):
        remove_orphans(part)
    for left in (folder / "checkpoints").glob(f"{UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)


def check_contained(folder: Path) -> None:
    """
    Raises:
        ValueError: if a file or folder of a run is a symbolic link, or neither file nor folder (for example a pipe).
    """
    for name in (*FILES, *FOLDERS):
        path = folder / name
        if os.path.lexists(path):
            _check_kind(path, stat.S_ISDIR if name in FOLDERS else stat.S_ISREG)
    for name in FOLDERS:
        for place, folders, files in os.walk(folder / name):
            for below, kind in (*((f, stat.S_ISDIR) for f in folders), *((f, stat.S_ISREG) for f in files)):
                _check_kind(Path(place) / below, kind)


def _check_kind(path: Path, kind: object) -> None:
    if not kind(path.lstat().st_mode):  # type: ignore[operator]
        got = f"a link to {os.readlink(path)}" if path.is_symlink() else "something else"
        what = "folder" if kind is stat.S_ISDIR else "file"
        raise ValueError(
            f"expected a {what} of the run in {path}, got {got}; nothing is written through it, so remove it"
        )


def _owner(folder: Path) -> str:
    try:
        owner = read_json(folder / OWNER)
        return f"process {int(owner['pid'])} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is just starting or ending
        return "another process"
