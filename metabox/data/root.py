"""Where data is: the data root, the cache of packs, and trees of files in folders and in zip archives."""

from __future__ import annotations

import io
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from PIL import Image

DATA_VARIABLE = "METABOX_DATA"
CACHE_VARIABLE = "METABOX_CACHE"


def in_home(path: str) -> Path:
    """A path, `~` in it being the user's home.

    Raises:
        ValueError: if the user has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"expected a home folder for {path!r}, got none; set HOME, or name folders without ~ by {DATA_VARIABLE} "
            f"and {CACHE_VARIABLE}"
        ) from error


def cache_folder(folder: str | None = None) -> Path:
    """Where packs are kept: the argument, else METABOX_CACHE, else `metabox` in the user's cache folder."""
    if folder or os.environ.get(CACHE_VARIABLE):
        return in_home(folder or os.environ[CACHE_VARIABLE])
    return in_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "metabox"


def data_root(folder: str | None = None) -> Path:
    """Where data sets are: the argument, else METABOX_DATA, else `data` beside the packs' default place.

    Raises:
        ValueError: where a folder is named but is none.
    """
    named = folder or os.environ.get(DATA_VARIABLE)
    if not named:
        return in_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "metabox" / "data"
    if not (root := in_home(named)).is_dir():
        raise ValueError(f"expected a folder of data sets, got {named!r}, which is not one; {how_to_name_a_root()}")
    return root


def name_data_root(folder: str | None) -> None:
    """From now on, and in processes started from here, data sets are in this folder; None changes nothing."""
    if folder:
        os.environ[DATA_VARIABLE] = folder


def how_to_name_a_root() -> str:
    return f"name one with --data-root (or the argument data_root), or with the environment variable {DATA_VARIABLE}"


class Files(ABC):
    """Images by name, opened one at a time; the names of files are relative, with `/`."""

    path: Path

    @abstractmethod
    def stamp(self) -> list[object]:
        """What changes when the files do (names, sizes, times), found without reading them."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """All files, sorted; hidden ones (a name that begins with a dot or with __) are passed over."""

    @abstractmethod
    def image(self, name: str) -> Image.Image: ...


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__")) for part in name.split("/"))


class FolderFiles(Files):
    """The files below a folder; with `only`, those below some of the folders in it, which saves looking at the rest."""

    def __init__(self, path: Path, only: Sequence[str] | None = None) -> None:
        self.path = path
        self.only = only

    def stamp(self) -> list[object]:
        return list(self._found)

    @cached_property
    def _found(self) -> list[tuple[str, int, int]]:
        """Name, size and time of every file, and of every folder by a name that ends in `/`."""
        found, todo = [], [(str(self.path), "")]
        if self.only is not None:
            todo = [(str(self.path / name), f"{name}/") for name in self.only if (self.path / name).is_dir()]
            found = [(prefix, 0, 0) for _, prefix in todo]
        while todo:
            folder, prefix = todo.pop()
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _hidden(entry.name):
                        continue
                    if entry.is_dir():
                        todo.append((entry.path, f"{prefix}{entry.name}/"))
                        found.append((f"{prefix}{entry.name}/", 0, 0))
                    else:
                        stat = entry.stat()
                        found.append((prefix + entry.name, stat.st_size, stat.st_mtime_ns))
        return sorted(found)

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self._found if not name.endswith("/")]

    @property
    def folders(self) -> list[str]:
        """All folders below, the empty ones too, sorted."""
        return [name[:-1] for name, _, _ in self._found if name.endswith("/")]

    def image(self, name: str) -> Image.Image:
        return Image.open(self.path / name)


class ZipFiles(Files):
    """The files in a zip archive. They are only ever read into memory, so no entry's path can lead outside."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> list[object]:
        stat = self.path.stat()
        return [self.path.name, stat.st_size, stat.st_mtime_ns]

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"expected a zip archive, got {self.path}: {error}; download it again") from error

    @property
    def names(self) -> list[str]:
        return sorted(name for name in self._archive.namelist() if not name.endswith("/") and not _hidden(name))

    def image(self, name: str) -> Image.Image:
        return Image.open(io.BytesIO(self._archive.read(name)))
