"""The caches in which few-shot sets are handed around: a file for each split, images in an array, labels beside it.

Their keys differ and their idea does not: `image_data` and `class_dict` (Ren et al. 2018, miniImageNet), `data` and
`labels` (Gidaris & Komodakis 2018, Lee et al. 2019), `images` with `label_specific` and its names in a second file,
images as an array or as PNG, one by one (Ren et al. 2018, tieredImageNet).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metabox.data.pack import ClassFiles
from metabox.data.published import SPLIT_NAMES, Source
from metabox.data.root import Files
from metabox.data.safe_pickle import safe_load
from metabox.episodes import Split

IMAGES = ("image_data", "data", "images")
LABELS = ("label_specific", "labels")


class Cache(Files):
    """One split's images; their names are the numbers of their rows.

    Args:
        split: its name.
        paths: the pickles and npz archives that hold it.
    """

    def __init__(self, split: str, paths: Sequence[Path]) -> None:
        self.split, self.paths, self.path = split, paths, paths[0]

    def stamp(self) -> list[object]:
        return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.paths]

    @cached_property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for path in self.paths:
            found = _read(path)
            content |= found if isinstance(found, Mapping) else {"images": found}
        return content

    @property
    def names(self) -> list[str]:
        return [str(row) for row in range(len(self._part(*IMAGES)))]

    def image(self, name: str) -> Image.Image:
        image = np.asarray(self._part(*IMAGES)[int(name)])
        if image.ndim < 3:
            return Image.open(io.BytesIO(image.tobytes()))
        # The archives of tieredImageNet come from OpenCV, which has blue first; the PNG beside them do not.
        return Image.fromarray(image[..., ::-1].copy() if self.path.suffix == ".npz" else image)

    def classes(self) -> list[ClassFiles]:
        """Classes by name where the cache has names of the published list, else as `<split>/<number>`."""
        if (named := self.content.get("class_dict")) is not None:
            return [ClassFiles(name, None, self, [str(row) for row in rows]) for name, rows in named.items()]
        labels = np.asarray(self._part(*LABELS))
        general, titles = (self.content.get(f"label_{name}") for name in ("general", "specific_str"))
        groups = self.content.get("label_general_str")
        found = []
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            name = f"{self.split}/{label:03}" + (f" {titles[label]}" if titles is not None else "")
            group = f"{self.split}/{groups[general[rows[0]]]}" if groups is not None and general is not None else None
            found.append(ClassFiles(name, group, self, [str(row) for row in rows]))
        return found

    def _part(self, *names: str) -> Any:
        for name in names:
            if name in self.content:
                return self.content[name]
        raise ValueError(
            f"expected {' or '.join(names)} in {' and '.join(map(str, self.paths))}, got {sorted(self.content)}"
        )


def find_caches(folder: Path, *layouts: Mapping[Split, Sequence[str]]) -> Source | None:
    """The first of the layouts (split to names of files) that is in the folder.

    Raises:
        ValueError: where a layout is there in part.
    """
    for layout in layouts:
        paths = {split: [folder / name for name in layout[split]] for split in SPLIT_NAMES}
        missing = [path.name for found in paths.values() for path in found if not path.is_file()]
        if not any(found[0].is_file() for found in paths.values()):
            continue
        if missing:
            raise ValueError(f"expected {', '.join(missing)} in {folder}, beside the others; get them too")
        caches = [Cache(split, found) for split, found in paths.items()]
        return Source([cache.stamp() for cache in caches], partial(_classes, caches))
    return None


def _classes(caches: Sequence[Cache]) -> list[ClassFiles]:
    return [c for cache in caches for c in cache.classes()]


def _read(path: Path) -> Any:
    if path.suffix != ".npz":
        return safe_load(path)
    with np.load(path) as archive:  # pickles inside are refused by default
        return dict(archive)
