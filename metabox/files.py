"""Files that are written atomically."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".part"
"""Suffix of temporary folders; their names begin with a dot."""

HASH = "blake2b"
"""The key of a JSON file's hash, which is over the rest of its content."""

DISK_ERRORS = ("os error", "I/O error", "inline_container.cc")
"""Parts of the messages by which libraries report a full disk instead of raising an OSError."""


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a temporary name, then rename it: no reader ever sees an incomplete file.

    The temporary file is in a folder of its own, which is locked while it exists, so that `remove_orphans` can
    recognise the leftovers of killed processes.

    Args:
        path: the file; a symbolic link there is replaced, never followed.
        write: writes the file at the path that it is given.

    Raises:
        OSError: if the file cannot be written (disk full, no permission); the message names it. An existing file stays.
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
    except Exception as error:
        if isinstance(error, OSError) or any(words in str(error) for words in DISK_ERRORS):
            raise _refused(path, error) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def remove_orphans(folder: str | os.PathLike[str]) -> list[Path]:
    """Delete and return the temporary folders of `write_atomically` in a folder that no living process is writing.

    A folder that can be locked has no writer, for the kernel releases the locks of a process however it ends. Without
    `fcntl` (Windows) this cannot be known, and nothing is deleted.
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
        if handle is not None:  # another process deleted it as an orphan before it was locked
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


def _refused(path: Path, error: Exception) -> OSError:
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    left = shutil.disk_usage(path.parent).free / 2**20
    return OSError(f"could not write {path}: {reason}; check the disk, which has {left:,.0f} MiB left, and its limits")


def append(path: str | os.PathLike[str], data: bytes) -> None:
    """Append to a file all of the data or none; a symbolic link is refused.

    Raises:
        OSError: if the file cannot be written; the message names it.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            before, left = os.fstat(handle).st_size, memoryview(data)
            try:
                while left:
                    left = left[os.write(handle, left) :]
            except OSError:
                os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)
    except OSError as error:
        raise _refused(path, error) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | os.PathLike[str], content: Any, *, hashed: bool = False) -> None:
    """Write JSON; if `hashed`, with a hash of the dictionary, which `read_json` checks."""
    if hashed:
        content = content | {HASH: _hash(json.loads(json.dumps(content)))}  # as it will be read back
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: str | os.PathLike[str], *, hashed: bool = False) -> Any:
    """
    Args:
        path: the file.
        hashed: whether it must be a dictionary with a hash, which is checked and removed.

    Raises:
        ValueError: if the file is not JSON, or has changed since it was written; the message names it.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # reading a pipe would wait for a writer
        raise ValueError(f"expected a file of JSON in {path}, got something other than a file; delete it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON in {path}, got something else ({error}); restore or delete it") from error
    if not hashed:
        return content
    if not isinstance(content, dict) or content.pop(HASH, None) != _hash(content):
        raise ValueError(
            f"expected {path} as it was written, got content that does not match its hash: "
            "it was damaged or changed; restore it"
        )
    return content


def _hash(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
