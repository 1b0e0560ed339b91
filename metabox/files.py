"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".part"
"""How the names of temporary folders end; they begin with a dot."""


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a temporary name, then give it its own: no reader ever sees half of it.

    The temporary file lies in a folder of its own, which is locked while it is there, so that `remove_orphans` can tell
    what a killed process has left.

    Args:
        path: the file; a symbolic link there is replaced, never followed.
        write: makes the file of the path that it is given.

    Raises:
        OSError: if the file cannot be written (disk full, no permission), naming it; what stood there stays.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, folder = _locked_folder(path)
    except OSError as error:
        raise OSError(f"could not write {path}: {error.strerror}; check the folder and its permissions") from error
    temporary = folder / path.name
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"could not write {path}: {error.strerror or error}; check the space left on the disk") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def remove_orphans(folder: str | os.PathLike[str]) -> list[Path]:
    """Delete the temporary folders of `write_whole` in a folder that no living process is writing; returns them.

    What can be locked has no writer, for the kernel takes the locks of a process back however it ends. Without
    `fcntl` (Windows) nothing can be told apart, and nothing is deleted.
    """
    removed = []
    for temporary in sorted(Path(folder).glob(f".*{TEMPORARY}")) if fcntl else ():
        if temporary.is_symlink() or (handle := _lock(temporary)) is None:
            continue
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            removed.append(temporary)
        finally:
            os.close(handle)
    return removed


def _locked_folder(path: Path) -> tuple[int | None, Path]:
    """A new folder beside `path`, and the handle that keeps it locked."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY))
        handle = _lock(folder)
        if not fcntl or (handle is not None and folder.is_dir()):
            return handle, folder
        if handle is not None:  # another process took it for an orphan before it was locked
            os.close(handle)


def _lock(folder: Path) -> int | None:
    """A handle that holds the lock of a folder, or None if another process holds it or the folder is gone."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (OSError, AttributeError):  # no such flags on Windows
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def write_text(path: str | os.PathLike[str], text: str) -> None:
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """
    Raises:
        ValueError: where the file is not JSON, naming it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON in {path}, got something else ({error}); restore or delete it") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
