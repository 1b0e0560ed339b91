"""The folder of a run belongs to one process at a time, which writes there and nowhere else."""

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
"""What a run writes; whatever else lies in its folder is not touched."""
UNFINISHED = ".tmp-"
"""How the names of folders begin that are being made or deleted."""


@contextmanager
def owned(folder: str | Path, leads: bool = True) -> Iterator[None]:
    """Inside, no other process writes in this folder. What a killed one left half-made is cleaned up.

    The kernel takes the lock back however a process ends, so a run that was killed blocks nobody. A process that owns
    the folder may ask again. The process's number and host are in `.owner.json` beside the lock.

    Args:
        folder: of the run; made if it is not there.
        leads: whether this process is the one of its run that writes (global rank 0); the others own nothing.

    Raises:
        ValueError: if another process or thread owns the folder, or something in it leads out of it.
        OSError: if the folder cannot be made or locked.
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
    """Find out before long work whether its results can be written; leaves nothing in a folder that nobody ever owned.

    Raises:
        ValueError: as for `owned`.
    """
    check_contained(folder)
    if (folder / LOCK).exists():
        with owned(folder):
            pass


def clean(folder: Path) -> None:
    """Delete what killed processes left half-made. Only the owner of the folder may."""
    for part in (folder, *(folder / name for name in FOLDERS)):
        remove_orphans(part)
    for left in (folder / "checkpoints").glob(f"{UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)


def check_contained(folder: Path) -> None:
    """
    Raises:
        ValueError: if a file or folder of a run is a symbolic link, or neither file nor folder (a pipe, say).
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
    except (OSError, ValueError, KeyError, TypeError):  # it is just beginning or ending
        return "another process"
