"""Reads untrusted files: regular files only, and no more bytes than allowed."""

from __future__ import annotations

import csv
import io
import math
import os
import stat
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

MOST_TEXT = 256 << 20  # bytes of a list of names
EXPANDS = 100  # an archive may expand to this many times its own size, or to GRACE
GRACE = 64 << 20
CHUNK = 1 << 20
SHOWN = 10  # names in one error message

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def name_some(names: Sequence[str], shown: int = SHOWN) -> str:
    """The first few of many names, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def kind_of(mode: int) -> str | None:
    """What a file is by its `st_mode`, in words; None if it is a regular file."""
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "something else")


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading. Anything else is not opened: a pipe would block for ever.

    Raises:
        ValueError: if it is not a regular file.
        OSError: if it does not exist or may not be read.
    """
    kind = kind_of(os.stat(path).st_mode)
    if kind is None:  # checked before, as opening a device may have effects, and after, as it may have changed
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        if (kind := kind_of(os.fstat(handle).st_mode)) is None:
            return os.fdopen(handle, "rb")
        os.close(handle)
    raise ValueError(f"expected a file, got {kind}, {path}; remove it")


def read_file(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        ValueError: if it is not a regular file, or larger.
        OSError: if it does not exist or may not be read.
    """
    with open_file(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"expected a file of at most {most:,} bytes, got a larger one, {path}")
    return content


def read_text(path: Path) -> str:
    """The content of a regular file in UTF-8.

    Raises:
        ValueError: if it is not a regular file, has more than 256 MiB, or is not UTF-8.
    """
    try:
        return read_file(path, MOST_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected text in UTF-8 in {path}, got something else ({error}); get it again") from error


def read_rows(path: Path, errors: str = "strict", **options: Any) -> Iterator[list[str]]:
    """The rows of a CSV file. Further arguments are those of `csv.reader`, `errors` is that of `open`.

    Raises:
        ValueError: if it is not a regular file, or not CSV, naming the line.
    """
    number = 0
    with io.TextIOWrapper(open_file(path), encoding="utf-8-sig", errors=errors, newline="") as file:
        try:
            for number, row in enumerate(csv.reader(file, **options), 1):  # noqa: B007
                yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"expected CSV in {path}, got something else after row {number} ({error})") from error


def load_array(path: Path) -> NDArray[Any]:
    """The array in a `.npy` file. Memory is allocated only after checking that the file is as long as its header says.

    Raises:
        ValueError: if it is not a regular file or not an array, or an array of objects, which would need pickle.
    """
    with open_file(path) as file:
        return _array(file, os.fstat(file.fileno()).st_size, str(path))


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays in a `.npz` file, by name.

    Raises:
        ValueError: if it is not a regular file or not such an archive, or expands to more than 100 times its size.
    """
    arrays = {}
    with open_archive(path) as archive:
        entries = checked_entries(archive, path)
        if sum(entry.file_size for entry in entries) > max(GRACE, EXPANDS * path.stat().st_size):
            raise ValueError(f"expected arrays in {path}, got an archive that expands more than {EXPANDS} times")
        for entry in entries:
            try:
                with archive.open(entry) as file:
                    name = f"{entry.filename} of {path}"
                    arrays[entry.filename.removesuffix(".npy")] = _array(file, entry.file_size, name)
            except Exception as error:  # zipfile raises all kinds of exceptions for damaged archives
                raise ValueError(f"expected arrays in {path}, got a damaged archive ({error}); get it again") from error
    return arrays


def open_archive(path: Path) -> zipfile.ZipFile:
    """A zip archive.

    Raises:
        ValueError: if it is not a regular file, or not a zip archive.
    """
    open_file(path).close()
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # as above
        raise ValueError(f"expected a zip archive, got {path} ({error}); get it again") from error


def checked_entries(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The entries of an archive that are files, checked and sorted by name.

    Overlapping entries would let a small archive expand without bound, which deflate alone cannot.

    Raises:
        ValueError: if names lead out of the folder or occur twice, or if entries overlap, are encrypted, or are
            compressed by another method than deflate, naming the first of them.
    """
    entries = sorted((e for e in archive.infolist() if not e.is_dir()), key=lambda e: e.header_offset)
    names: set[str] = set()
    end = 0
    for entry in entries:
        name = entry.filename
        path_of = name.replace("\\", "/")
        odd = (
            "a name that leads elsewhere" * (path_of.startswith("/") or ".." in path_of.split("/"))
            or "a name twice" * (name in names)
            or "an encrypted entry" * (entry.flag_bits & 1)
            or "entries that overlap" * (entry.header_offset < end)
            or "an entry that is not packed by deflate"
            * (entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        )
        if odd:
            raise ValueError(f"expected plain files in {path}, got {odd}: {name[:80]!r}; pack it anew")
        names.add(name)
        end = entry.header_offset + 30 + len(entry.orig_filename) + entry.compress_size  # at least
    return sorted(entries, key=lambda e: e.filename)


def read_entry(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The content of a file in an archive, at most `most` bytes.

    Raises:
        ValueError: if it is missing, larger, or damaged.
    """
    try:
        with archive.open(name) as file:
            content = file.read(most + 1)
    except Exception as error:  # as above
        raise ValueError(f"a damaged entry ({error})") from error
    if len(content) > most:
        raise ValueError(f"more than {most:,} bytes")
    return content


def _array(file: Any, size: int, name: str) -> NDArray[Any]:
    """The array in a stream of `size` bytes."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file)
        if dtype.kind not in "biufSU" or not dtype.itemsize or any(n < 0 for n in shape):
            raise ValueError(f"entries of type {dtype}, shape {shape}")
        needed = math.prod(shape) * dtype.itemsize
        if needed > size:
            raise ValueError(f"shape {shape}, which its {size:,} bytes cannot hold")
        content = np.empty(needed, np.uint8)
        at = 0
        while at < needed and (more := file.readinto(content[at : at + CHUNK].data)):
            at += more
        if at < needed:
            raise ValueError(f"an end after {at:,} bytes of {needed:,}")
        return content.view(dtype).reshape(shape, order="F" if by_columns else "C")
    except Exception as error:  # NumPy raises all kinds of exceptions for broken headers
        raise ValueError(
            f"expected an array of numbers in {name}, got something else ({error}); get it again"
        ) from error
