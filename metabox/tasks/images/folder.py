"""Your own images: class folders, or a CSV file of paths and labels."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from metabox.config import Unpack
from metabox.data.own import OwnImage, in_folders, in_list
from metabox.data.own_splits import FEW, Divided, divided
from metabox.data.pack import Pack, open_pack
from metabox.data.preprocessing import Fit, Level, Preprocessing
from metabox.data.readers import name_some
from metabox.data.root import FolderFiles, in_home
from metabox.data.stored import StoredImages
from metabox.episodes import SPLITS, Split
from metabox.files import read_json
from metabox.ranges import Count, Share
from metabox.tasks.nway import NWayKShot, NWayOptions

log = logging.getLogger(__name__)


class ClassFolder(NWayKShot):
    """Your own images: `<class>/*.png`, `<group>/<class>/*.png`, `<split>/<class>/*.png`, or a CSV file.

    Images are PNG, JPEG, GIF, BMP, TIFF, WebP, AVIF, or binary PPM, PGM and PBM, of at most 2^26 pixels, read as a
    viewer shows them. Hidden files, Thumbs.db and their like are skipped.

    Folders around the class folders are groups (see `within_groups`), and a class is named `<group>/<class>`. If the
    outermost are named train, val (or valid, validation) and test, they are your own split: of the classes if each is
    in one of them, of the images if all of them have the same classes. A CSV file has the columns path (below its own
    folder), label and perhaps split.

    Classes with fewer images than a task needs are left out, which a log message says.

    Args:
        path: the folder or the CSV file.
        image_size: the size to which all images are brought, one number or (height, width); null if all have the same
            size.
        channels: 1 for grey, 3 for RGB.
        splits: a JSON file `{"train": [names], "val": [...], "test": [...]}`, or the fractions of classes for each;
            null for your own split, and without one for 0.64, 0.16 and 0.2. With fractions, the hash of a class's name
            chooses its split, so a new class never moves another one. There are two exceptions: if that left a split
            with fewer than two classes, the hashes are cut at the fractions; of at most three classes the images are
            split, and each split has classes named `<split>/<class>`.
        rotations: count every class four times, rotated by 0, 90, 180 and 270 degrees (square images only).
        on_device: keep all images on the device; see `StoredImages`.
        fit: "squash", "crop" or "pad" images of other proportions; see `Preprocessing`.
        background: grey level behind transparent pixels and in the borders of "pad".
        too_few: "omit" leaves out classes with fewer than n_shot + n_query images; "mask" keeps those with one query
            image at least, and masks the others.

    Raises:
        ValueError: if the fractions do not sum to 1; at the first use, if the folder has another layout, naming every
            folder, file or class that does not fit.
    """

    def __init__(
        self,
        path: str,
        image_size: Count | tuple[Count, Count] | None = None,
        channels: Literal[1, 3] = 3,
        splits: str | tuple[Share, Share, Share] | None = None,
        rotations: bool = False,
        on_device: bool | None = None,
        fit: Fit = "squash",
        background: Level = 255,
        too_few: Literal["omit", "mask"] = "omit",
        **kwargs: Unpack[NWayOptions],
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(splits, tuple) and not math.isclose(sum(splits), 1, abs_tol=1e-6):
            raise ValueError(f"expected a JSON file or three fractions that sum to 1 as splits, got {splits}")
        self.path = path
        self.image_size = image_size
        self.channels = channels
        self.splits = splits
        self.rotations = rotations
        self.fit = fit
        self.background = background
        self.masked = too_few == "mask"
        self._on_device = on_device

    def load(self) -> StoredImages:
        files, images = self._listed()
        found = self._divided(files, images)
        name = files.path.resolve().name
        key = (
            "own",
            name,
            self.preprocessing,
            files.stamp(),
            [(c.name, c.group, tuple(c.images)) for c in found.classes],
        )
        pack = open_pack(name, key, lambda: found.classes, self.preprocessing)
        return StoredImages(pack, self._large_enough(pack, found), self.rotations, self._on_device)

    @property
    def preprocessing(self) -> Preprocessing:  # type: ignore[override]  # of this size
        return Preprocessing(self.channels, self.image_size, fit=self.fit, background=self.background)

    few = FEW
    """So many classes are not dealt out to splits, but the images of each."""

    def _divided(self, files: FolderFiles, images: list[OwnImage]) -> Divided:
        splits = _read(self.splits) if isinstance(self.splits, str) else self.splits
        return divided(images, files, splits, self.few)

    def _listed(self) -> tuple[FolderFiles, list[OwnImage]]:
        path = in_home(self.path)
        if path.suffix.lower() == ".csv" and path.is_file():
            return in_list(path)
        if not path.is_dir():
            raise ValueError(f"expected a folder of class folders or a CSV file, got {self.path!r}, which is not one")
        files = FolderFiles(path)
        listed = in_home(self.splits).resolve() if isinstance(self.splits, str) else None
        return files, in_folders(files, lambda name: (path / name).resolve() == listed)

    def _large_enough(self, pack: Pack, found: Divided) -> Mapping[Split, Sequence[str]]:
        """The splits without classes of too few images, but never a split without any."""
        needed = self.n_shot[1] + (1 if self.masked else self.n_query[1])
        size = dict(zip(pack.class_names, np.diff(pack.start).tolist(), strict=True))
        left_out, kept = [], {}
        for split, names in found.splits.items():
            enough = [name for name in names if size.get(name, needed) >= needed]
            kept[split] = enough or names
            left_out += sorted(set(names) - set(kept[split]))
        if left_out:
            log.warning(
                "%s: %d of %d classes are left out, with fewer than the %d images of a task: %s",
                *(self.path, len(left_out), len(size), needed, name_some(left_out)),
            )
        return kept


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
