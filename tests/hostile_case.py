"""What the tables of hostile files share."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

PWNED = "PWNED"
SPLITS = ("train", "val", "test")
FEW: dict[str, Any] = {"n_way": 1, "n_shot": 1, "n_query": 1}


@dataclass(frozen=True)
class Case:
    """A file, or several that belong together."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    says: str | None = None


HOSTILE: dict[str, Case] = {}
GOOD: dict[str, Case] = {}


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def fake_ghostscript(folder: Path) -> Path:
    """A folder to put first in PATH, with a `gs` that makes PWNED, for machines without Ghostscript too."""
    path = folder / "bin" / "gs"
    put(path, f"#!/bin/sh\ntouch {folder / PWNED}\necho 10.0\n".encode())
    path.chmod(0o755)
    return path.parent


def encoded(kind: str, size: tuple[int, int] = (8, 8), mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind, **options)
    return stream.getvalue()


class Calls:
    """An object that pickles as a call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return stream.getvalue()


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    b"(PWNED) (w) file closefile (%pipe%touch PWNED) (w) file closefile\nshowpage\n%%EOF\n"
)
JPEG = encoded("jpeg")
NONE = "no PNG, JPEG"  # said of a file in none of the formats
