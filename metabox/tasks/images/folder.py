"""Your own images: a folder of class folders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from metabox.config import Unpack
from metabox.data.decode import SUFFIXES
from metabox.data.pack import ClassFiles, open_pack
from metabox.data.preprocessing import Preprocessing
from metabox.data.readers import name_some
from metabox.data.root import FolderFiles, in_home
from metabox.data.stored import StoredImages
from metabox.episodes import SPLITS, Split
from metabox.files import read_json
from metabox.ranges import Count, Share
from metabox.tasks.nway import NWayKShot, NWayOptions


class ClassFolder(NWayKShot):
    """A folder of class folders, `<class>/*.png` or `<group>/<class>/*.png`.

    Images are PNG, JPEG, GIF, BMP, TIFF, WebP, or binary PPM, PGM and PBM, of at most 2^26 pixels.

    If all classes are one folder deeper, those folders are the groups (see `within_groups`), and a class
    is named `<group>/<class>`. Hidden files are skipped.

    Args:
        path: the folder.
        image_size: side in pixels to which all images are resized (not cropped); null if all have the same size.
        channels: 1 for grey, 3 for RGB.
        splits: a JSON file `{"train": [names], "val": [...], "test": [...]}`, or the fractions of classes for each.
            With fractions, the hash of a class's name chooses its split, so a new class never moves another one;
            the numbers of classes are close to the fractions, not exactly so.
        rotations: count every class four times, rotated by 0, 90, 180 and 270 degrees (square images only).
        on_device: keep all images on the device; see `StoredImages`.

    Raises:
        ValueError: if the fractions do not sum to 1; at the first use, if the folder has another layout, naming every
            folder, file or class that does not fit.
    """

    def __init__(
        self,
        path: str,
        image_size: Count | None = None,
        channels: Literal[1, 3] = 3,
        splits: str | tuple[Share, Share, Share] = (0.64, 0.16, 0.2),
        rotations: bool = False,
        on_device: bool | None = None,
        **kwargs: Unpack[NWayOptions],
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(splits, str) and (not math.isclose(sum(splits), 1, abs_tol=1e-6)):
            raise ValueError(f"expected a JSON file or three fractions that sum to 1 as splits, got {splits}")
        self.path = path
        self.image_size = image_size
        self.channels = channels
        self.splits = splits
        self.rotations = rotations
        self._on_device = on_device

    def load(self) -> StoredImages:
        folder = in_home(self.path)
        if not folder.is_dir():
            raise ValueError(f"expected a folder of class folders, got {self.path!r}, which is not one")
        files = FolderFiles(folder)
        key = ("folder", folder.name, self.image_size, self.channels, files.stamp())
        pack = open_pack(folder.resolve().name, key, lambda: _classes(files, self.splits), self.preprocessing)
        names = split_by_hash(pack.class_names, self.splits) if not isinstance(self.splits, str) else _read(self.splits)
        return StoredImages(pack, names, self.rotations, self._on_device)

    @property
    def preprocessing(self) -> Preprocessing:  # type: ignore[override]  # of this size
        return Preprocessing(self.channels, self.image_size)


def split_by_hash(names: Sequence[str], fractions: tuple[float, float, float]) -> dict[Split, list[str]]:
    """Assign each class to a split by the hash of its name, independently of other classes."""
    splits: dict[Split, list[str]] = {split: [] for split in SPLITS}
    for name in names:
        at = int.from_bytes(blake2b(name.encode(), digest_size=6).digest(), "little") / 2**48
        splits["train" if at < fractions[0] else "val" if at < fractions[0] + fractions[1] else "test"].append(name)
    return splits


def _read(path: str) -> Mapping[Split, Sequence[str]]:
    if not in_home(path).is_file():
        raise ValueError(f"expected splits as a JSON file or three fractions, got {path!r}, which is not a file")
    splits = read_json(in_home(path))
    if (
        not isinstance(splits, dict)
        or not set(splits) <= set(SPLITS)
        or not all(
            isinstance(names, list) and all(isinstance(name, str) for name in names) for names in splits.values()
        )
    ):
        raise ValueError(
            f'expected {{"train": [names], "val": [names], "test": [names]}} in {path}, got something else'
        )
    return splits


def _classes(files: FolderFiles, splits: object) -> list[ClassFiles]:
    """The class folders: those without subfolders. Everything out of place is reported at once."""
    inner = {folder.rpartition("/")[0] for folder in files.folders}
    images: dict[str, list[str]] = {folder: [] for folder in files.folders if folder not in inner}
    stray = []
    for name in files.names:
        folder = name.rpartition("/")[0]
        if folder in images and Path(name).suffix.lower() in SUFFIXES:
            images[folder].append(name)
        elif not (isinstance(splits, str) and (files.path / name).resolve() == in_home(splits).resolve()):
            stray.append(name)
    depths = {folder.count("/") for folder in images}
    odd = [folder for folder in images if folder.count("/") > 1 or folder.count("/") < max(depths)]
    empty = [folder for folder, found in images.items() if not found]
    wrong = [
        f"{what}: {name_some(names)}"
        for what, names in (
            ("no images in", empty),
            ("not an image in a class folder", stray),
            ("class folders at another depth", odd),
        )
        if names
    ]
    if wrong or not images:
        raise ValueError(
            f"expected <class>/<image> or <group>/<class>/<image> in {files.path}, "
            f"got {'; '.join(wrong) or 'no folders'}; move or remove them"
        )
    return [ClassFiles(c, c.rpartition("/")[0] or None, files, found) for c, found in images.items()]
