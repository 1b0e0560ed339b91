"""What published image sets have in common: files in one of several layouts, counts to check, and fixed splits.

A set is one file: a class below `PublishedImages` that says what to expect and where to look.
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
    """RGB images with published splits. A class below it fills in what is known of the set.

    name: of `splits/NAME.json`, if its classes have names
    pack: of its packs, which sets of the same images share
    title: its name in print
    n_classes: classes of each split
    n_images: images of each class, or None where classes differ
    total: images in all
    size: side of the images in published results
    where: where to get the files and where to put them

    Args:
        image_size: side of the images in pixels; by default that of published results.
        rotations: count every class four times, turned by 0, 90, 180 and 270 degrees.
        on_device: keep all images on the device; see `StoredImages`.
        data_root: folder that holds the set's own; by default METABOX_DATA.

    Raises:
        ValueError: at the first use, if the set is not found or not whole, naming all that is wrong at once.
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
        """The set below the data root, or None where it is not there."""

    def download(self, root: Path) -> None:
        raise FileNotFoundError("its owners want to be asked, so it is not downloaded")

    def load(self) -> StoredImages:
        root = data_root(self.data_root)
        found = self.find(root)
        if found is None:
            try:
                self.download(root)
            except Exception as error:  # whatever the network and the disk come up with
                raise self._not_found(root, f" ({error})") from error
            found = self.find(root)
        if found is None:
            raise self._not_found(root, " after downloading it")
        key = (self.pack, self.image_size, found.stamp)
        pack = open_pack(self.pack, key, found.classes, self.preprocessing, check=self._complaints)
        return StoredImages(pack, self._splits(pack.class_names), self.rotations, self._on_device)

    def _splits(self, names: Sequence[str]) -> Mapping[Split, Sequence[str]]:
        """By the published list of names; a layout without names has numbers below the names of splits."""
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
