"""CUB: 200 species of birds, 11,788 photographs (Wah et al. 2011)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from metabox.data.layouts import FoundSet, existing_folders
from metabox.data.pack import ClassFiles
from metabox.data.preprocessing import Preprocessing
from metabox.data.readers import read_text
from metabox.data.root import FolderFiles
from metabox.tasks.images.published import PublishedImages


class CUB(PublishedImages):
    """Caltech-UCSD Birds 200-2011, as few-shot tasks: 100 / 50 / 50 species, about 59 photographs of each, 84x84.

    The split is that of Chen et al. 2019 ("A closer look at few-shot classification"): of the species by number, the
    odd ones are for training, and the even ones alternate between validation and test. As in the paper, photographs
    are resized to a square 15 % larger, and its centre is cropped. Other papers have other splits, or crop to the
    bounding boxes: compare with care. See `PublishedImages` for the options.
    """

    name = pack = "cub"
    title = "CUB"
    n_classes, total = {"train": 100, "val": 50, "test": 50}, 11_788
    where = (
        "put the folder CUB_200_2011 with images.txt, classes.txt, image_class_labels.txt and images/ "
        "(data.caltech.edu/records/65de6-vp158) into cub/ under the data root, or straight under it"
    )

    def find(self, root: Path) -> FoundSet | None:
        for folder in existing_folders(root, "cub/CUB_200_2011", "CUB_200_2011", "cub"):
            if (folder / "images.txt").is_file() and (folder / "images").is_dir():
                files = FolderFiles(folder / "images")
                lists = {
                    name: read_text(folder / f"{name}.txt").split()
                    for name in ("images", "classes", "image_class_labels")
                }
                return FoundSet((files.stamp(), lists), partial(_classes, files, lists))
        return None

    @property
    def preprocessing(self) -> Preprocessing:  # type: ignore[override]  # of this size
        return Preprocessing(3, self.image_size, "bilinear", enlarged=1.15)


def _classes(files: FolderFiles, lists: dict[str, list[str]]) -> list[ClassFiles]:
    """Classes from the lists of pairs: (image, path), (class, name), (image, class), images and classes as numbers."""
    try:
        path, name, number = (
            dict(zip(lists[part][::2], lists[part][1::2], strict=True))
            for part in ("images", "classes", "image_class_labels")
        )
        images: dict[str, list[str]] = {c: [] for c in name}
        for image, c in number.items():
            images[c].append(path[image])
    except (KeyError, ValueError) as error:
        raise ValueError(
            "expected images.txt, classes.txt and image_class_labels.txt that belong together beside "
            f"{files.path}, got others ({str(error)[:80]}); get them again"
        ) from error
    return [ClassFiles(name[c], None, files, sorted(found)) for c, found in images.items()]
