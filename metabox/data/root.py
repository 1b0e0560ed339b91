"""Where data are: the data root, the cache of packs, and images in folders and zip archives."""

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
    """A path with `~` replaced by the user's home.

    Raises:
        ValueError: if the user has no home.
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
    """Where data sets are: the argument, else METABOX_DATA, else `data` in the packs' default folder.

    Raises:
        ValueError: if the argument or METABOX_DATA is not a folder.
    """
    named = folder or os.environ.get(DATA_VARIABLE)
    if not named:
        return in_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "metabox" / "data"
    if not (root := in_home(named)).is_dir():
        raise ValueError(f"expected a folder of data sets, got {named!r}, which is not one; {how_to_name_a_root()}")
    return root


def name_data_root(folder: str | None) -> None:
    """Set the data root of this process and of those that it starts; None changes nothing."""
    if folder:
        os.environ[DATA_VARIABLE] = folder


def how_to_name_a_root() -> str:
    return f"name one with --data-root (or the argument data_root), or with the environment variable {DATA_VARIABLE}"


class Files(ABC):
    """Images by name, opened one at a time; file names are relative, with `/`."""

    path: Path

    @abstractmethod
    def stamp(self) -> list[object]:
        """Names, sizes and times of the files, found without reading them; changes when the files do."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """All files, sorted; hidden ones (a name that begins with a dot or with __) and `LITTER` are skipped."""

    @abstractmethod
    def image(self, name: str) -> Image.Image:
        """One image, decoded.

        Raises:
            ValueError: if it is not an image, or larger than `open_image` takes.
        """


LITTER = frozenset(["thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin"])


def _hidden(name: str) -> bool:
    """Whether it is a hidden file, or one that a system leaves beside pictures."""
    return any(part.startswith((".", "__")) or part.lower() in LITTER for part in name.split("/"))


class FolderFiles(Files):
    """The files below a folder; with `only`, those below some of its subfolders, so that the rest is not listed.

    Links are followed. What is neither a file nor a folder is never opened, since a pipe would block for ever.

    Raises:
        ValueError: at the first use, if there are pipes, sockets, devices, links that lead nowhere or in a circle, or
            names that are not UTF-8, naming all of them.
    """

    def __init__(self, path: Path, only: Sequence[str] | None = None) -> None:
        self.path = path
        self.only = only

    def stamp(self) -> list[object]:
        return list(self._found)

    @cached_property
    def _found(self) -> list[tuple[str, int, int]]:
        """Name, size and time of every file and folder; a folder's name ends in `/`."""
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
        """All subfolders, the empty ones too, sorted."""
        return [name[:-1] for name, _, _ in self._found if name.endswith("/")]

    def image(self, name: str) -> Image.Image:
        return open_image(read_file(self.path / name, MOST_BYTES))


class ListedFiles(FolderFiles):
    """Some files below a folder, by their names; nothing else in it is looked at.

    Raises:
        ValueError: at the first use, if one of them is not a file, naming all of them.
    """

    def __init__(self, path: Path, listed: Sequence[str]) -> None:
        super().__init__(path)
        self.listed = listed

    @cached_property
    def _found(self) -> list[tuple[str, int, int]]:
        found, odd = [], []
        for name in self.listed:
            try:
                about = os.stat(self.path / name)
                kind = kind_of(about.st_mode)
            except (OSError, ValueError) as error:
                kind = getattr(error, "strerror", None) or str(error)
            if kind is not None:
                odd.append(f"{name} ({kind})")
            else:
                found.append((name, about.st_size, about.st_mtime_ns))
        if odd:
            raise ValueError(f"expected files in {self.path}, got {name_some(odd)}; mend the list")
        return found


class ZipFiles(Files):
    """The files in a zip archive, read into memory one at a time.

    Raises:
        ValueError: at the first use, if it is not an archive, or a malformed one; see `checked_entries`.
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
