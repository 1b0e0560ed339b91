"""The caches in which few-shot sets are distributed: a file for each split, with images in an array and their labels.

They differ in their keys: `image_data` and `class_dict` (Ren et al. 2018, miniImageNet), `data` and
`labels` (Gidaris & Komodakis 2018, Lee et al. 2019), `images` with `label_specific` and its names in a second file,
images as one array or as single PNG files (Ren et al. 2018, tieredImageNet).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metabox.data.decode import image_of, open_image
from metabox.data.layouts import FoundSet
from metabox.data.pack import ClassFiles
from metabox.data.readers import load_arrays, name_some
from metabox.data.root import Files
from metabox.data.safe_pickle import safe_load
from metabox.episodes import SPLITS, Split

IMAGES = ("image_data", "data", "images")
LABELS = ("label_specific", "labels")


class Cache(Files):
    """One split's images, named by their row numbers.

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

    @cached_property
    def _images(self) -> Sequence[Any] | NDArray[Any]:
        """One entry for each image: its pixels, or the bytes of its file."""
        images = self._part(*IMAGES)
        if not isinstance(images, list) and not (isinstance(images, np.ndarray) and images.ndim):
            raise self._wrong("images in a list or an array", images)
        return images

    @property
    def names(self) -> list[str]:
        return [str(row) for row in range(len(self._images))]

    def image(self, name: str) -> Image.Image:
        image = self._images[int(name)]
        if not isinstance(image, np.ndarray):
            raise ValueError(f"{type(image).__name__} instead of an array")
        if image.ndim < 3:
            return open_image(image.tobytes())
        # The archives of tieredImageNet were written by OpenCV, with blue first; the PNG files were not.
        return image_of(image[..., ::-1].copy() if self.path.suffix == ".npz" else image)

    def classes(self) -> list[ClassFiles]:
        """Classes by name if the cache has the names of the published list, else as `<split>/<number>`."""
        n = len(self._images)
        if (named := self.content.get("class_dict")) is not None:
            if not isinstance(named, Mapping) or not all(isinstance(name, str) for name in named):
                raise self._wrong("rows by the name of a class", named)
            return [ClassFiles(c, None, self, [str(row) for row in self._whole(rows, n)]) for c, rows in named.items()]
        labels = self._whole(self._part(*LABELS), 1 << 20)
        general, titles = self.content.get("label_general"), self._texts("label_specific_str")
        groups = self._texts("label_general_str")
        group_of = None if general is None or groups is None else self._whole(general, len(groups))
        if len(labels) != n or len(labels if group_of is None else group_of) != n:
            raise self._wrong(f"a label for each of {n} images", labels)
        if titles is not None:
            self._whole(labels, len(titles))
        found = []
        order = np.argsort(labels, kind="stable")
        numbers, starts = np.unique(labels[order], return_index=True)
        for label, rows in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            name = f"{self.split}/{label:03}" + (f" {titles[label]}" if titles is not None else "")
            group = f"{self.split}/{groups[group_of[rows[0]]]}" if groups is not None and group_of is not None else None
            found.append(ClassFiles(name, group, self, [str(row) for row in rows]))
        return found

    def _whole(self, values: Any, end: int) -> NDArray[np.int64]:
        """Numbers from 0 to `end - 1`, `[n]`; a list is checked before it is converted, since it may contain itself."""
        if isinstance(values, list) and all(isinstance(value, int | np.integer) for value in values):
            values = np.array([min(max(int(value), -1), end) for value in values], dtype=np.int64)
        if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iu":
            raise self._wrong("whole numbers in one row", values)
        if len(values) and not 0 <= values.min() <= values.max() < end:
            raise self._wrong(f"numbers from 0 to {end - 1}", values)
        return values.astype(np.int64)

    def _texts(self, name: str) -> list[str] | None:
        texts = self.content.get(name)
        if isinstance(texts, np.ndarray):
            texts = list(texts)
        if texts is not None and not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
            raise self._wrong(f"a list of names as {name}", texts)
        return texts

    def _part(self, *names: str) -> Any:
        for name in names:
            if name in self.content:
                return self.content[name]
        found = name_some(sorted(str(name)[:40] for name in self.content))
        raise self._wrong(" or ".join(names), None, found)

    def _wrong(self, wanted: str, got: object, found: str = "") -> ValueError:
        kind = f"{got.dtype} {list(got.shape)}" if isinstance(got, np.ndarray) else type(got).__name__
        where = " and ".join(map(str, self.paths))
        return ValueError(f"expected {wanted} in {where}, got {found or kind}; get it again")


def find_caches(folder: Path, *layouts: Mapping[Split, Sequence[str]]) -> FoundSet | None:
    """The first of the layouts (split to file names) that the folder has.

    Raises:
        ValueError: if some of a layout's files are missing.
    """
    for layout in layouts:
        paths = {split: [folder / name for name in layout[split]] for split in SPLITS}
        missing = [path.name for found in paths.values() for path in found if not path.is_file()]
        if not any(found[0].is_file() for found in paths.values()):
            continue
        if missing:
            raise ValueError(f"expected {', '.join(missing)} in {folder}, beside the others; get them too")
        caches = [Cache(split, found) for split, found in paths.items()]
        return FoundSet([cache.stamp() for cache in caches], partial(_classes, caches))
    return None


def _classes(caches: Sequence[Cache]) -> list[ClassFiles]:
    return [c for cache in caches for c in cache.classes()]


def _read(path: Path) -> Any:
    if path.suffix != ".npz":
        return safe_load(path)
    return load_arrays(path)
