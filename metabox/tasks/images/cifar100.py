"""CIFAR-FS and FC100: the 100 classes of CIFAR-100, 600 images of 32x32 each, split in two ways."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metabox.data.caches import find_caches
from metabox.data.decode import image_of
from metabox.data.layouts import FoundSet, class_folders, existing_folders
from metabox.data.pack import ClassFiles
from metabox.data.root import Files, FolderFiles, ZipFiles
from metabox.data.safe_pickle import safe_load
from metabox.episodes import SPLITS
from metabox.tasks.images.published import PublishedImages


class _CIFAR100(PublishedImages):
    pack, n_images, total, size = "cifar100", 600, 60_000, 32
    where = (
        "put cifar100.zip of CIFAR-FS, the folders cifar100/data/<class>/*.png extracted from it, the folder "
        "cifar-100-python of cs.toronto.edu/~kriz/cifar.html, or the pickles CIFAR_FS_{train,val,test}.pickle or "
        "FC100_{train,val,test}.pickle of MetaOptNet into cifar-fs/ or fc100/ under the data root"
    )

    def find(self, root: Path) -> FoundSet | None:
        stem = {"cifar_fs": "CIFAR_FS", "fc100": "FC100"}[self.name]
        for folder in existing_folders(root, "cifar-fs", "CIFAR-FS", "fc100", "FC100", "cifar100", "."):
            files: Files
            if (archive := folder / "cifar100.zip").is_file():
                files = ZipFiles(archive)
                return FoundSet(files.stamp(), partial(class_folders, files, "cifar100/data/"))
            if (tree := folder / "cifar100" / "data").is_dir():
                files = FolderFiles(tree)
                return FoundSet(files.stamp(), partial(class_folders, files))
            if (batches := folder / "cifar-100-python").is_dir():
                pickles = _Batches(batches)
                return FoundSet(pickles.stamp(), pickles.classes)
            if found := find_caches(folder, {split: [f"{stem}_{split}.pickle"] for split in SPLITS}):
                return found
        return None

    def download(self, root: Path) -> None:
        from torchvision.datasets import CIFAR100  # slow to import, and rarely needed

        root.mkdir(parents=True, exist_ok=True)
        CIFAR100(str(root), download=True)


class CIFARFS(_CIFAR100):
    """CIFAR-FS, as few-shot tasks: 64 / 16 / 20 classes of 600 colour images (Bertinetto et al. 2019).

    The classes were split at random ("Meta-learning with differentiable closed-form solvers"). An image has a seventh
    of the pixels of one of miniImageNet.
    See `PublishedImages` for the options; the set is downloaded if it is not found.
    """

    name, title, n_classes = "cifar_fs", "CIFAR-FS", {"train": 64, "val": 16, "test": 20}


class FC100(_CIFAR100):
    """FC100, as few-shot tasks: 60 / 20 / 20 classes of 600 colour images (Oreshkin et al. 2018).

    The splits share no superclass of CIFAR-100 ("TADAM"), so that what was learned transfers less.
    See `PublishedImages` for the options; the set is downloaded if it is not found.
    """

    name, title, n_classes = "fc100", "FC100", {"train": 60, "val": 20, "test": 20}


class _Batches(Files):
    """The extracted archive of CIFAR-100's authors: the pickles train, test and meta."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> list[object]:
        return FolderFiles(self.path).stamp()

    @cached_property
    def _pixels(self) -> dict[str, NDArray[np.uint8]]:
        """Rows of pixels by `<class>/<file>`, the names that the images have elsewhere."""
        rows: dict[str, NDArray[np.uint8]] = {}
        try:
            meta: dict[str, Any] = safe_load(self.path / "meta")
            for part in ("train", "test"):
                batch = safe_load(self.path / part)
                pixels = batch["data"]
                if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3 * 32 * 32,):
                    raise TypeError(f"{part} without uint8 [n, 3072] as data")
                for label, file, row in zip(batch["fine_labels"], batch["filenames"], pixels, strict=True):
                    rows[f"{str(meta['fine_label_names'][label])[:80]}/{str(file)[:80]}"] = row
        except (LookupError, TypeError) as error:
            raise ValueError(
                f"expected the batches of CIFAR-100 in {self.path}, got something else ({error}); get them again"
            ) from error
        return rows

    @property
    def names(self) -> list[str]:
        return sorted(self._pixels)

    def classes(self) -> list[ClassFiles]:
        return class_folders(self)

    def image(self, name: str) -> Image.Image:
        return image_of(self._pixels[name].reshape(3, 32, 32).transpose(1, 2, 0).copy())
