"""miniImageNet: 100 classes of ImageNet, 600 images each (Vinyals et al. 2016; split of Ravi & Larochelle 2017)."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from metabox.data.caches import find_caches
from metabox.data.layouts import FoundSet, class_folders, existing_folders
from metabox.data.pack import ClassFiles
from metabox.data.readers import name_some, read_rows
from metabox.data.root import CLASS_LISTS, FolderFiles
from metabox.episodes import SPLITS, Split
from metabox.files import read_json
from metabox.tasks.images.published import PublishedImages

log = logging.getLogger(__name__)

CACHES: tuple[dict[Split, list[str]], ...] = (
    {split: [f"mini-imagenet-cache-{split}.pkl"] for split in SPLITS},
    {
        "train": ["miniImageNet_category_split_train_phase_train.pickle"],
        "val": ["miniImageNet_category_split_val.pickle"],
        "test": ["miniImageNet_category_split_test.pickle"],
    },
)


class MiniImageNet(PublishedImages):
    """miniImageNet, as few-shot tasks: 64 / 16 / 20 classes of 600 colour images, 84x84.

    Read from any of its published layouts, or made from ILSVRC 2012:

    * `images/*.jpg` with `train.csv`, `val.csv`, `test.csv` (columns filename, label) of Ravi & Larochelle 2017
      ("Optimization as a model for few-shot learning");
    * `mini-imagenet-cache-{train,val,test}.pkl` (Ren et al. 2018), or the pickles `miniImageNet_category_split_*` of
      Gidaris & Komodakis 2018, without running code in a pickle;
    * class folders, `<wnid>/*` or `{train,val,test}/<wnid>/*`;
    * `ILSVRC2012/train/<wnid>/*.JPEG`: image n01532829 00000005 of the CSV is the fifth of its class by the number in
      the file name. Without the CSV the first 600 of each class are taken, which are not the published ones.

    Larger images are resized with the Lanczos filter, as in Finn et al. 2017 ("Model-agnostic meta-learning").
    See `PublishedImages` for the options.
    """

    name = pack = "miniimagenet"
    title = "miniImageNet"
    n_classes, n_images, total = {"train": 64, "val": 16, "test": 20}, 600, 60_000
    where = (
        "put one of these into mini-imagenet/ under the data root: images/ with train.csv, val.csv and test.csv "
        "(github.com/twitter-research/meta-learning-lstm), mini-imagenet-cache-{train,val,test}.pkl "
        "(github.com/renmengye/few-shot-ssl-public), or class folders {train,val,test}/<wnid>/; or put ImageNet "
        "(image-net.org, ILSVRC 2012) into ILSVRC2012/train/<wnid>/ beside it, with the CSV files in mini-imagenet/"
    )

    def find(self, root: Path) -> FoundSet | None:
        lists: dict[str, list[str]] = {}
        for folder in existing_folders(root, "mini-imagenet", "miniimagenet", "mini_imagenet", "miniImageNet"):
            if found := find_caches(folder, *CACHES):
                return found
            lists = lists or _lists(folder)
            if lists and (folder / "images").is_dir():
                files = FolderFiles(folder / "images")
                return FoundSet((files.stamp(), lists), partial(_listed, files, lists))
            names = [name for names in self._published().values() for name in names]
            if existing_folders(folder, *SPLITS, *names):
                files = FolderFiles(folder, [*SPLITS, *names])
                return FoundSet(files.stamp(), partial(class_folders, files))
        for folder in existing_folders(root, "ILSVRC2012/train", "ILSVRC/Data/CLS-LOC/train", "imagenet/train"):
            return self._from_imagenet(folder, lists)
        return None

    def _from_imagenet(self, folder: Path, lists: dict[str, list[str]]) -> FoundSet:
        names = [name for names in self._published().values() for name in names]
        files = FolderFiles(folder, names)
        if not lists:
            log.warning("no train.csv, val.csv and test.csv beside %s: taking the first images of each class", folder)

        def classes() -> list[ClassFiles]:
            found = []
            for c in class_folders(files):
                by_number = sorted(c.images, key=lambda name: _number(name, name.rpartition("_")[2]))
                if not lists:
                    chosen = by_number[: self.n_images]
                else:
                    numbers = [_number(name, name[len(c.name) :]) for name in lists.get(c.name, [])]
                    chosen = [by_number[n - 1] if 0 < n <= len(by_number) else f"{c.name}/number {n}" for n in numbers]
                found.append(ClassFiles(c.name, None, files, chosen))
            return found

        return FoundSet((files.stamp(), lists), classes)

    def _published(self) -> dict[str, list[str]]:
        published: dict[str, list[str]] = read_json(CLASS_LISTS / f"{self.name}.json")
        return published


def _number(name: str, end: str) -> int:
    number = end.partition(".")[0]
    if not number.isdigit():
        raise ValueError(f"expected a number at the end of a name, as in n01532829_5.JPEG, got {name}")
    return int(number)


def _listed(files: FolderFiles, lists: dict[str, list[str]]) -> list[ClassFiles]:
    return [ClassFiles(name, None, files, images) for name, images in lists.items()]


def _lists(folder: Path) -> dict[str, list[str]]:
    """The files of each class by the three CSV files; empty if these are missing."""
    paths = [folder / f"{split}.csv" for split in SPLITS]
    lists: dict[str, list[str]] = {}
    if all(path.is_file() for path in paths):
        for path in paths:
            rows = read_rows(path)
            columns = next(rows, [])
            if not {"filename", "label"} <= set(columns):
                raise ValueError(f"expected columns filename and label in {path}, got {name_some(columns)}")
            for row in filter(None, rows):
                if len(row) != len(columns):
                    raise ValueError(f"expected {len(columns)} columns in {path}, got {name_some(row)}; get it again")
                lists.setdefault(row[columns.index("label")], []).append(row[columns.index("filename")])
    return lists
