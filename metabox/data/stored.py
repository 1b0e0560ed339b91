"""Images in memory: one uint8 tensor for a whole set, shared by all samplers of it in the process."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from metabox.data.nwaykshot import Bools, ClassImages, Ints
from metabox.data.pack import Pack, name_some
from metabox.episodes import Device, Split

QUARTERS = 4


class StoredImages(ClassImages):
    """The images of a pack, gathered by row.

    With `rotations` each class counts four times, as in Santoro et al. 2016 and Vinyals et al. 2016:
    class `4 * c + k` is class c turned counter-clockwise by k quarters, and its group is `4 * group + k`,
    since a turned alphabet has other characters than an upright one. Two of the four are in memory,
    upright and turned once; the other two are those with their pixels in reverse order, which costs
    about as much as the gather itself (turning each image where it is drawn costs four times that).

    Args:
        pack: the images.
        splits: names of the classes of each split.
        rotations: count every class four times, turned.

    Raises:
        ValueError: where a split names a class that is not there, or a class is in two splits or twice in one,
            or images to be turned are not square.
    """

    def __init__(self, pack: Pack, splits: Mapping[Split, Sequence[str]], rotations: bool = False) -> None:
        self.pack, self.rotations = pack, rotations
        c, h, w = pack.images.shape[1:]
        if rotations and h != w:
            raise ValueError(f"expected square images to rotate, got {h}x{w}; set image_size, or rotations to false")
        self.image_shape = (c, h, w)
        self.fingerprint = pack.fingerprint
        turns = QUARTERS if rotations else 1
        self.sizes = np.repeat(np.diff(pack.start), turns)
        self.groups = None if pack.groups is None else _turned(pack.groups, turns)
        ids = _class_ids(pack.class_names, splits)
        self.splits = {split: _turned(classes, turns) for split, classes in ids.items()}
        # Byte order is reversed word by word: as many bytes to the word as divide an image.
        self._word = f"u{math.gcd(h * w, 8)}"

    def gather(self, classes: Ints, items: Ints, device: Device) -> Tensor:
        device = torch.device(device)
        if not self.rotations:
            rows = self.pack.start.take(classes) + items
            return self.pack.pixels(device).index_select(0, _put(rows, device)).view(-1, *self.image_shape)
        rows = self.pack.start.take(classes >> 2) + items + (classes & 1) * len(self.pack.images)
        pixels = self.pack.pixels(device, turned=True).index_select(0, _put(rows, device))
        pixels = pixels.view(len(pixels), self.image_shape[0], -1)
        return self._reverse(pixels, (classes & 2) > 0).view(-1, *self.image_shape)

    def _reverse(self, pixels: Tensor, rows: Bools) -> Tensor:
        """The images `[K, channels, pixels]` with some of them turned by 180 degrees."""
        if pixels.device.type != "cpu":
            return torch.where(_put(rows, pixels.device)[:, None, None], pixels.flip(-1), pixels)
        # torch and NumPy reverse bytes one at a time; whole words in reverse, each swapped, go eight times as fast.
        words = pixels.numpy().view(self._word)
        (which,) = rows.nonzero()
        words[which] = words.take(which, axis=0).byteswap(inplace=True)[..., ::-1]
        return pixels

    def ids(self, classes: Ints, items: Ints) -> Ints:
        """A number for each drawing and rotation: its row among the images, times four, plus quarters if rotated."""
        if not self.rotations:
            return self.pack.start.take(classes) + items
        return (self.pack.start.take(classes >> 2) + items) * QUARTERS + (classes & 3)

    def class_name(self, c: int) -> str:
        if not self.rotations:
            return self.pack.class_names[c]
        return f"{self.pack.class_names[c // QUARTERS]} at {c % QUARTERS * 90} degrees"


def _put(numbers: Ints | Bools, device: torch.device) -> Tensor:
    return torch.from_numpy(numbers).to(device)


def _turned(numbers: Ints, turns: int) -> Ints:
    return (numbers[:, None] * turns + np.arange(turns)).ravel()


def _class_ids(class_names: Sequence[str], splits: Mapping[Split, Sequence[str]]) -> dict[Split, Ints]:
    """Each split's classes as sorted numbers; every name that does not fit is reported at once."""
    number = {name: i for i, name in enumerate(class_names)}
    home: dict[str, str] = {}
    missing, twice = [], []
    for split, names in splits.items():
        for name in names:
            if name not in number:
                missing.append(f"{name} ({split})")
            if name in home:
                twice.append(f"{name} ({home[name]} and {split})")
            home[name] = split
    wrong = [f"not there: {name_some(missing)}"] * bool(missing) + [f"named twice: {name_some(twice)}"] * bool(twice)
    if wrong:
        raise ValueError(f"expected splits of the {len(number)} classes, each in one at most, got {'; '.join(wrong)}")
    return {split: np.array(sorted(number[name] for name in names), dtype=np.int64) for split, names in splits.items()}
