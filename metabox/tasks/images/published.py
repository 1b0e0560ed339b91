"""What published image sets share: files in one of several layouts, counts to check, and fixed splits.

A set is one file with a subclass of `PublishedImages`, which says what to expect and where to look.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from metabox.config import Unpack
from metabox.data.layouts import FoundSet
from metabox.data.pack import ClassFiles, open_pack
from metabox.data.preprocessing import Preprocessing
from metabox.data.readers import name_some
from metabox.data.root import CLASS_LISTS, data_root, how_to_name_a_root
from metabox.data.stored import StoredImages
from metabox.episodes import SPLITS, Split
from metabox.files import read_json
from metabox.ranges import Count
from metabox.tasks.nway import NWayKShot, NWayOptions


class PublishedImages(NWayKShot):
    """RGB images with published splits. A subclass describes the set.

    name: names the list of classes, `splits/NAME.json`, if classes have names
    pack: names the pack, which sets of the same images share
    title: the set's name in print
    n_classes: number of classes in each split
    n_images: number of images in each class, or None if classes differ
    total: number of images in all
    size: side of the images in published results
    where: where to get the files and where to put them

    Args:
        image_size: side of the images in pixels; by default that of published results.
        rotations: count every class four times, rotated by 0, 90, 180 and 270 degrees.
        on_device: keep all images on the device; see `StoredImages`.
        data_root: folder that holds the folder of the set; by default METABOX_DATA.

    Raises:
        ValueError: at the first use, if the set is not found or incomplete, naming all that is wrong.
    """

    name: ClassVar[str]
    pack: ClassVar[str]
    title: ClassVar[str]
    n_classes: ClassVar[Mapping[Split, int]]
    n_images: ClassVar[int | None] = None
    total: ClassVar[int]
    size: ClassVar[int] = 84
    where: ClassVar[str]

    def __init__(
        self,
        image_size: Count | None = None,
        rotations: bool = False,
        on_device: bool | None = None,
        data_root: str | None = None,
        **kwargs: Unpack[NWayOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size or self.size
        self.rotations = rotations
        self.data_root = data_root
        self._on_device = on_device

    @property
    def preprocessing(self) -> Preprocessing:  # type: ignore[override]  # of this size
        return Preprocessing(3, self.image_size, "lanczos")

    @abstractmethod
    def find(self, root: Path) -> FoundSet | None:
        """The set below the data root, or None if it is missing."""

    def download(self, root: Path) -> None:
        raise FileNotFoundError("its owners want to be asked, so it is not downloaded")

    def load(self) -> StoredImages:
        root = data_root(self.data_root)
        found = self.find(root)
        if found is None:
            try:
                self.download(root)
            except Exception as error:  # the network and the disk can fail in many ways
                raise self._not_found(root, f" ({error})") from error
            found = self.find(root)
        if found is None:
            raise self._not_found(root, " after downloading it")
        key = (self.pack, self.image_size, found.stamp)
        pack = open_pack(self.pack, key, found.classes, self.preprocessing, check=self._complaints)
        return StoredImages(pack, self._splits(pack.class_names), self.rotations, self._on_device)

    def _splits(self, names: Sequence[str]) -> Mapping[Split, Sequence[str]]:
        """The classes of each split, by the published list; layouts without names have `<split>/<number>`."""
        if any("/" in name for name in names):
            return {split: [name for name in names if name.startswith(f"{split}/")] for split in SPLITS}
        splits: Mapping[Split, Sequence[str]] = read_json(CLASS_LISTS / f"{self.name}.json")
        return splits

    def _complaints(self, found: list[ClassFiles]) -> list[str]:
        names = [c.name for c in found]
        splits = self._splits(names)
        listed = {name for split in splits.values() for name in split}
        wrong = {
            "missing classes": sorted(listed - set(names)),
            "classes that are not in its list": sorted(set(names) - listed),
            "classes found twice": sorted(name for name, times in Counter(names).items() if times > 1),
            "wrong numbers of classes": [
                f"{len(splits[split])} in {split} instead of {n}"
                for split, n in self.n_classes.items()
                if len(splits[split]) != n
            ],
            f"classes without {self.n_images} images": [
                f"{c.name} ({len(c.images)})" for c in found if self.n_images not in (None, len(c.images))
            ],
        }
        complaints = [f"{what}: {name_some(which)}" for what, which in wrong.items() if which]
        images = sum(len(c.images) for c in found)
        if images != self.total:
            complaints.append(f"{images} images instead of {self.total}")
        return [f"{self.title} with {'; '.join(complaints)}"] if complaints else []

    def _not_found(self, root: Path, why: str) -> ValueError:
        return ValueError(
            f"expected {self.title} under {root}, found none{why}; {self.where}, and {how_to_name_a_root()}"
        )
