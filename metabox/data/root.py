"""Where data is: the data root, the cache of packs, and trees of files in folders and in zip archives."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from zipfile import ZipFile

from PIL import Image

from metabox.data.decode import MOST_BYTES, open_image
from metabox.data.readers import checked_entries, kind_of, name_some, open_archive, read_entry, read_file

DATA_VARIABLE = "METABOX_DATA"
CACHE_VARIABLE = "METABOX_CACHE"
CLASS_LISTS = Path(__file__).parent / "splits"  # of each published split


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
    def image(self, name: str) -> Image.Image:
        """One image, decoded.

        Raises:
            ValueError: if it is none, or larger than `open_image` takes.
        """


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__")) for part in name.split("/"))


class FolderFiles(Files):
    """The files below a folder; with `only`, those below some of the folders in it, which saves looking at the rest.

    Links are followed. What is neither a file nor a folder is never opened, for a pipe would wait for ever.

    Raises:
        ValueError: when it is first looked at, naming all that is neither a file nor a folder: pipes, sockets, devices,
            links that lead nowhere or in a circle, names that are not UTF-8.
    """

    def __init__(self, path: Path, only: Sequence[str] | None = None) -> None:
        self.path = path
        self.only = only

    def stamp(self) -> list[object]:
        return list(self._found)

    @cached_property
    def _found(self) -> list[tuple[str, int, int]]:
        """Name, size and time of every file, and of every folder by a name that ends in `/`."""
        todo = [(str(self.path), "")]
        if self.only is not None:
            todo = [(str(self.path / name), f"{name}/") for name in self.only if (self.path / name).is_dir()]
        found = [(prefix, 0, 0) for _, prefix in todo if prefix]
        odd: list[str] = []
        seen: dict[tuple[int, int], str] = {}
        while todo:
            folder, prefix = todo.pop()
            about = os.stat(folder)
            if (first := seen.setdefault((about.st_dev, about.st_ino), prefix)) != prefix and about.st_ino:
                odd.append(f"{prefix[:-1]} (the same folder as {first[:-1] or self.path.name})")
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if _hidden(entry.name):
                        continue
                    try:
                        about = entry.stat()
                        name.encode()
                    except OSError as error:
                        odd.append(f"{name} ({'a link that leads nowhere' if entry.is_symlink() else error.strerror})")
                    except UnicodeEncodeError:
                        odd.append(f"{name!a} (a name that is not UTF-8)")
                    else:
                        if stat.S_ISDIR(about.st_mode):
                            todo.append((entry.path, f"{name}/"))
                            found.append((f"{name}/", 0, 0))
                        elif (kind := kind_of(about.st_mode)) is not None:
                            odd.append(f"{name} ({kind})")
                        else:
                            found.append((name, about.st_size, about.st_mtime_ns))
        if odd:
            raise ValueError(f"expected files and folders in {self.path}, got {name_some(sorted(odd))}; remove them")
        return sorted(found)

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self._found if not name.endswith("/")]

    @property
    def folders(self) -> list[str]:
        """All folders below, the empty ones too, sorted."""
        return [name[:-1] for name, _, _ in self._found if name.endswith("/")]

    def image(self, name: str) -> Image.Image:
        return open_image(read_file(self.path / name, MOST_BYTES))


class ZipFiles(Files):
    """The files in a zip archive. They are only ever read into memory, one at a time, and none that is encrypted.

    Raises:
        ValueError: when it is first looked at, if it is no archive or one that misleads; see `checked_entries`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> list[object]:
        about = self.path.stat()
        return [self.path.name, about.st_size, about.st_mtime_ns]

    @cached_property
    def _archive(self) -> ZipFile:
        return open_archive(self.path)

    @cached_property
    def _entries(self) -> list[str]:
        return [entry.filename for entry in checked_entries(self._archive, self.path) if not _hidden(entry.filename)]

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    def image(self, name: str) -> Image.Image:
        return open_image(read_entry(self._archive, name, MOST_BYTES))
