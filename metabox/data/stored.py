"""Stored images: one uint8 tensor for each set, on the device or in a file, shared by all samplers of the process."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from metabox.arrays import Integers
from metabox.data.class_images import ClassImages
from metabox.data.pack import Pack
from metabox.data.readers import name_some
from metabox.episodes import Device, Split, moved

QUARTERS = 4
ROOM = 8 << 30  # bytes for images on a device that does not report its free memory


class StoredImages(ClassImages):
    """The images of a pack, gathered by row.

    With `rotations` each class becomes four, as in Santoro et al. 2016 and Vinyals et al. 2016:
    class `4 * c + k` is class c rotated counter-clockwise by k quarter turns, and its group is `4 * group + k`,
    since a rotated alphabet has other characters than an upright one. Two of the four are in memory,
    upright and rotated once; the other two are these with their pixels in reverse order, which costs
    about as much as the gather itself (rotating each image when it is drawn costs four times that).

    A set that does not fit stays in the pack's memory-mapped file: an episode's rows are gathered on the host, copied
    to the device and rotated there. The episodes are the same, bit for bit, and `Prefetch` hides most of the delay.

    Args:
        pack: the images.
        splits: names of the classes of each split.
        rotations: count every class four times, rotated.
        on_device: keep all images on the device (True) or in the file (False); None keeps them on the device if
            they take at most half of the memory that is free there at the first use.

    Raises:
        ValueError: if a split names a class that does not exist, or a class is in two splits or twice in one,
            or images to be rotated are not square.
    """

    named = True

    def __init__(
        self,
        pack: Pack,
        splits: Mapping[Split, Sequence[str]],
        rotations: bool = False,
        on_device: bool | None = None,
    ) -> None:
        self.pack, self.rotations = pack, rotations
        self._wanted, self._fits = on_device, dict[torch.device, bool]()
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
        # Bytes are reversed word by word; the word size divides the image size.
        self._word = f"u{math.gcd(h * w, 8)}"

    def ids(self, classes: Integers, items: Integers) -> Integers:
        """The row of each drawing among the images; with rotations four times that, plus the quarter turns."""
        if not self.rotations:
            return self.pack.start.take(classes) + items
        return (self.pack.start.take(classes >> 2) + items) * QUARTERS + (classes & 3)

    def pictures(self, ids: Tensor, device: Device) -> Tensor:
        device = torch.device(device)
        on_device = self._on_device(device)
        if not self.rotations:
            return self._rows(ids, device, on_device).view(-1, *self.image_shape)
        quarters = ids & 3
        rows, turned = ids >> 2, (quarters & 1) > 0
        if on_device:  # the images rotated once follow the upright ones
            rows += (quarters & 1) * len(self.pack.images)
        pixels = self._rows(rows, device, on_device).view(len(rows), *self.image_shape)
        if not on_device:
            pixels = torch.where(moved(turned, device)[:, None, None, None], pixels.rot90(1, (2, 3)), pixels)
        return self._reverse(pixels.flatten(2), quarters > 1).view(-1, *self.image_shape)

    def _rows(self, rows: Tensor, device: torch.device, on_device: bool) -> Tensor:
        """Rows `[K, pixels]` of the images, on the device."""
        if on_device:
            return self.pack.rows(device, self.rotations).index_select(0, moved(rows, device))
        images = self.pack.images.flatten(1)
        # Pinned memory is copied while the device computes.
        picked = torch.empty(len(rows), images.shape[1], dtype=torch.uint8, pin_memory=device.type == "cuda")
        torch.index_select(images, 0, rows, out=picked)
        return moved(picked, device)

    def _on_device(self, device: torch.device) -> bool:
        if self._wanted is not None:
            return self._wanted
        if device not in self._fits:
            needed = self.pack.images.nbytes * (1 + self.rotations)
            room = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else ROOM
            self._fits[device] = (device, self.rotations) in self.pack.copies or needed <= room
        return self._fits[device]

    def _reverse(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """The images `[K, channels, pixels]`, with the given rows rotated by 180 degrees."""
        if pixels.device.type != "cpu":
            return torch.where(moved(rows, pixels.device)[:, None, None], pixels.flip(-1), pixels)
        # torch and NumPy reverse bytes one at a time; reversing words and swapping their bytes is eight times as fast.
        words = pixels.numpy().view(self._word)
        (which,) = rows.numpy().nonzero()
        words[which] = words.take(which, axis=0).byteswap(inplace=True)[..., ::-1]
        return pixels

    def class_name(self, c: int) -> str:
        if not self.rotations:
            return self.pack.class_names[c]
        return f"{self.pack.class_names[c // QUARTERS]} at {c % QUARTERS * 90} degrees"


def _turned(numbers: Integers, turns: int) -> Integers:
    return (numbers[:, None] * turns + np.arange(turns)).ravel()


def _class_ids(class_names: Sequence[str], splits: Mapping[Split, Sequence[str]]) -> dict[Split, Integers]:
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
