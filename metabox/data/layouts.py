"""How image sets are laid out in folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from metabox.data.decode import SUFFIXES
from metabox.data.pack import ClassFiles
from metabox.data.root import Files


@dataclass(frozen=True)
class FoundSet:
    """An image set as it was found: `stamp` changes with its files, `classes` lists them."""

    stamp: object
    classes: Callable[[], list[ClassFiles]]


def existing_folders(root: Path, *names: str) -> list[Path]:
    """The given folders below the root that exist."""
    return [folder for name in names if (folder := root / name).is_dir()]


def class_folders(files: Files, within: str = "") -> list[ClassFiles]:
    """A class for every folder that holds images, named after it; only paths that begin with `within` count."""
    classes: dict[str, list[str]] = {}
    for name in files.names:
        if name.startswith(within) and Path(name).suffix.lower() in SUFFIXES:
            classes.setdefault(name.rpartition("/")[0], []).append(name)
    return [ClassFiles(folder.rpartition("/")[2], None, files, images) for folder, images in classes.items()]
