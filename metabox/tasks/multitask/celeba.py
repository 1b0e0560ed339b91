"""CelebA: faces with forty yes/no attributes, read by torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metabox.config import Unpack
from metabox.data import root
from metabox.data.pack import ClassFiles, Pack, open_pack
from metabox.data.preprocessing import Preprocessing
from metabox.data.readers import name_some
from metabox.episodes import Split
from metabox.ranges import Count
from metabox.targets import Binary, Part, Parts, TaskSpec
from metabox.tasks.named import FiniteOptions, FiniteTasks
from metabox.tasks.rows import Rows

# torchvision's names of the splits, in order
THEIR_SPLITS: dict[str, Split] = {"test": "test", "train": "train", "valid": "val"}


class CelebA(FiniteTasks):
    """Multi-label classification of the 202,599 aligned faces of CelebA (Liu et al. 2015), in their splits.

    Images are resized without cropping, and packed at the first use. 64 pixels is the size of Sener & Koltun 2018
    ("Multi-task learning as multi-objective optimization"), in which each attribute is a task: see `parts`.

    Args:
        image_size: height and width in pixels.
        attributes: names of the labels (Smiling and Eyeglasses, say), in this order; null for all forty.
        parts: one named part for each attribute, each with its own loss, instead of one vector of labels.
        data_root: folder of the data sets, with `celeba/img_align_celeba/*.jpg` and the lists beside it.
        **kwargs: of `FiniteTasks`.

    Raises:
        ValueError: at the first use, if files are missing or damaged, or an attribute is unknown.
    """

    def __init__(
        self,
        image_size: Count = 64,
        attributes: list[str] | None = None,
        parts: bool = False,
        data_root: str | None = None,
        **kwargs: Unpack[FiniteOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        self.attributes = attributes
        self.parts = parts
        self.data_root = data_root

    @property
    def preprocessing(self) -> Preprocessing:  # type: ignore[override]  # of this size
        return Preprocessing(3, self.image_size)

    def load(self) -> Rows:
        pack, labels, names = read(root.data_root(self.data_root), self.preprocessing)
        chosen = names if self.attributes is None else self.attributes
        if missing := [name for name in chosen if name not in names]:
            raise ValueError(f"expected attributes among {names}, got {name_some(missing)}")
        split = np.repeat([THEIR_SPLITS[name] for name in pack.class_names], np.diff(pack.start))
        return Rows(
            x=pack.images, y=labels[:, [names.index(name) for name in chosen]], split=split, spec=self._spec(chosen)
        )

    def _spec(self, names: list[str]) -> TaskSpec:
        shape = (3, self.image_size, self.image_size)
        if self.parts:
            return TaskSpec(shape, Parts(tuple(Part(name, Binary(1)) for name in names)))
        return TaskSpec(shape, Binary(len(names)))


def read(folder: Path, preprocessing: Preprocessing) -> tuple[Pack, Tensor, list[str]]:
    """The pack, whose classes are torchvision's splits; labels 0 and 1 `[n, 40]` in the pack's order; and their names.

    Raises:
        ValueError: if files are missing or damaged.
    """
    from torchvision.datasets import CelebA as Reader  # slow to import

    try:
        parts = {split: Reader(str(folder), split=split, target_type="attr") for split in THEIR_SPLITS}
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"expected CelebA in {folder / 'celeba'}, got none or a damaged one ({error}); "
            f'torchvision.datasets.CelebA("{folder}", download=True) gets it, or unpack img_align_celeba.zip there '
            f"with the lists (list_attr_celeba.txt, ...) beside it, and {root.how_to_name_a_root()}"
        ) from error
    files = root.FolderFiles(folder / Reader.base_folder / "img_align_celeba")

    def listed() -> list[ClassFiles]:
        return [ClassFiles(split, None, files, part.filename) for split, part in parts.items()]

    key = ("celeba", preprocessing.image_size, files.stamp(), {split: part.filename for split, part in parts.items()})
    pack = open_pack("celeba", key, listed, preprocessing)
    labels = torch.cat([part.attr.float() for part in parts.values()])
    names = [name for name in parts["train"].attr_names if name]  # the header may end with a blank
    return pack, labels, names
