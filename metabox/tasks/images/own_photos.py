"""Your own photographs, with the way, shots and size of tasks chosen from what is there."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from typing import Literal, TypedDict

from metabox.config import Unpack
from metabox.data.augment import Augmentation
from metabox.data.own import OwnImage
from metabox.data.preprocessing import Level
from metabox.data.root import FolderFiles
from metabox.data.stored import StoredImages
from metabox.ranges import Count, CountOrRange, Share
from metabox.tasks.images.folder import ClassFolder

log = logging.getLogger(__name__)

LOOKED_AT = 50  # images, for their size
SMALLEST = 28


class OtherOptions(TypedDict, total=False):
    """The options of `NWayKShot` that are not chosen."""

    imbalanced: bool
    within_groups: bool
    augment: Augmentation | None
    names: int | None


class OwnPhotos(ClassFolder):
    """Your own photographs in class folders or a CSV file, as for `ClassFolder`, with tasks of a size that they allow.

    At the first use the way, shots, queries and size of images that are not given are chosen, and a log message says
    them. Shots and queries share the images of the class of median size in a split, at most `most_shot` and
    `most_query`. The way is the number of classes with enough images in the smallest split, at most `most_way`. Images
    are squares as large as the shorter side of the middle one of a few, at most `most_size`.

    Of at most five classes the images are split, so that each split has all of them.

    Args:
        path: the folder or the CSV file.
        most_way: the largest way that is chosen.
        most_shot: the largest number of shots that is chosen; tasks have from one to so many.
        most_query: the largest number of queries that is chosen.
        most_size: the largest side of images that is chosen, in pixels.
        channels, splits, fit, too_few, rotations, on_device, background: as for `ClassFolder`.
        n_way, n_shot, n_query: classes, shots and queries of a task; null to choose them.
        image_size: side of the images in pixels; null to choose it.

    Raises:
        ValueError: as for `ClassFolder`; at the first use, if no class has two images, or a split has one class.
    """

    few = 5

    def __init__(
        self,
        path: str,
        most_way: Count = 5,
        most_shot: Count = 5,
        most_query: Count = 15,
        most_size: Count = 128,
        channels: Literal[1, 3] = 3,
        splits: str | tuple[Share, Share, Share] | None = None,
        fit: Literal["squash", "crop", "pad"] = "crop",
        too_few: Literal["omit", "mask"] = "mask",
        rotations: bool = False,
        on_device: bool | None = None,
        background: Level = 255,
        n_way: CountOrRange | None = None,
        n_shot: CountOrRange | None = None,
        n_query: CountOrRange | None = None,
        image_size: Count | None = None,
        **kwargs: Unpack[OtherOptions],
    ) -> None:
        known = {"n_way": n_way, "n_shot": n_shot, "n_query": n_query}
        self.open = {name for name, value in known.items() if value is None}  # to be chosen
        super().__init__(
            path,
            image_size=image_size,
            channels=channels,
            splits=splits,
            fit=fit,
            too_few=too_few,
            rotations=rotations,
            on_device=on_device,
            background=background,
            n_way=n_way or most_way,
            n_shot=n_shot or most_shot,
            n_query=n_query or most_query,
            **kwargs,
        )
        self.most_way, self.most_shot, self.most_query, self.most_size = most_way, most_shot, most_query, most_size

    def load(self) -> StoredImages:
        files, images = self._listed()
        found = self._divided(files, images)
        sizes = {one.name: len(one.images) for one in found.classes}
        each = [sorted(sizes[name] for name in names if name in sizes) for names in found.splits.values() if names]
        self._choose(each)
        self.image_size = self.image_size or self._size(files, images)
        log.warning(
            "%s: %d images of %d classes; tasks of %d classes, %d to %d shots and %d queries, %s pixels a side",
            *(self.path, len(images), len({image.label for image in images})),
            *(self.n_way[1], *self.n_shot, self.n_query[1], self.image_size),
        )
        return super().load()

    def _choose(self, each: Sequence[Sequence[int]]) -> None:
        """Set way, shots and queries by the sizes of the classes in each split."""
        room = min(int(statistics.median_high(sizes)) for sizes in each)
        shot = max(1, min(self.most_shot, room // 2))
        enough = min(sum(size > shot for size in sizes) for sizes in each)
        if enough < 2:
            raise ValueError(
                f"expected two classes of two images at least in each split of {self.path}, got splits of "
                f"{', '.join(f'{len(sizes)} classes of {sizes[0]} to {sizes[-1]} images' for sizes in each)}; add some"
            )
        chosen = {
            "n_way": (min(self.most_way, enough),) * 2,
            "n_shot": (1, shot),
            "n_query": (min(self.most_query, room - shot),) * 2,
        }
        for name in self.open:
            setattr(self, name, chosen[name])

    def _size(self, files: FolderFiles, images: Sequence[OwnImage]) -> int:
        """The side to which images are brought."""
        sides = []
        for image in images[:: max(1, len(images) // LOOKED_AT)]:
            try:
                sides.append(min(files.image(image.file).size))
            except ValueError:  # the pack will name it, and all others
                continue
        return max(SMALLEST, min(self.most_size, int(statistics.median_low(sides)))) if sides else self.most_size
