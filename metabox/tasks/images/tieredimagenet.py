"""tieredImageNet: 608 classes of ImageNet in 34 categories (Ren et al. 2018)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from metabox.data.caches import find_caches
from metabox.data.layouts import FoundSet, class_folders, existing_folders
from metabox.data.pack import ClassFiles
from metabox.data.root import FolderFiles
from metabox.episodes import SPLITS, Split
from metabox.tasks.images.published import PublishedImages

CACHES: tuple[dict[Split, list[str]], ...] = (
    {split: [f"{split}_images_png.pkl", f"{split}_labels.pkl"] for split in SPLITS},
    {split: [f"{split}_images.npz", f"{split}_labels.pkl"] for split in SPLITS},
)


class TieredImageNet(PublishedImages):
    """tieredImageNet, as few-shot tasks: 351 / 97 / 160 classes of about 1,280 colour images, 84x84.

    The splits share no category of ImageNet's hierarchy: 20 / 6 / 8 of 34 ("Meta-learning for semi-supervised
    few-shot classification"). The categories are the groups, if the files name them. Read from

    * `{train,val,test}_images_png.pkl` or `{train,val,test}_images.npz`, with `{train,val,test}_labels.pkl`,
      without running code in a pickle;
    * class folders, `{train,val,test}/<class>/*`.

    All 779,165 images take 16.5 GB: see `on_device` and `Prefetch`. See `PublishedImages` for the options.
    """

    name = pack = "tieredimagenet"
    title = "tieredImageNet"
    n_classes, total = {"train": 351, "val": 97, "test": 160}, 779_165
    where = (
        "put {train,val,test}_images_png.pkl and {train,val,test}_labels.pkl "
        "(github.com/renmengye/few-shot-ssl-public), or class folders {train,val,test}/<class>/, into "
        "tiered-imagenet/ under the data root"
    )

    def find(self, root: Path) -> FoundSet | None:
        for folder in existing_folders(root, "tiered-imagenet", "tieredimagenet", "tiered_imagenet", "tieredImageNet"):
            if found := find_caches(folder, *CACHES):
                return found
            if len(existing_folders(folder, *SPLITS)) == len(SPLITS):
                files = FolderFiles(folder, SPLITS)
                return FoundSet(files.stamp(), partial(_classes, files))
        return None


def _classes(files: FolderFiles) -> list[ClassFiles]:
    """Classes named `<split>/<folder>`, since only the folder tells their split."""
    return [
        ClassFiles(f"{split}/{c.name}", None, files, c.images)
        for split in SPLITS
        for c in class_folders(files, f"{split}/")
    ]
