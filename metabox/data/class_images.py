"""Images that are sorted into classes, whether stored in a file or rendered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from metabox.arrays import Integers
from metabox.episodes import Device, Split


class ClassImages(ABC):
    """Images in classes: class c holds drawings 0 ... sizes[c] - 1.

    sizes: number of drawings of each class, int64 `[n_classes]`
    groups: the group of each class (its alphabet, say), int64 `[n_classes]`, or None
    image_shape: (channels, height, width)
    splits: the classes of each split; a split may be missing
    fingerprint: identifies the content, however it was packaged
    named: whether `class_name` says more than the number
    """

    sizes: Integers
    groups: Integers | None
    image_shape: tuple[int, int, int]
    splits: Mapping[Split, Integers]
    fingerprint: str
    named: bool = False

    def ids(self, classes: Integers, items: Integers) -> Integers:
        """A unique number for each drawing: the class times 2^32, plus the drawing.

        The arguments are broadcast.
        """
        return (classes << 32) + items

    @abstractmethod
    def pictures(self, ids: Tensor, device: Device) -> Tensor:
        """The drawings of the ids `[K]` (on the host) as uint8 `[K, channels, height, width]` on the device."""

    def gather(self, classes: Integers, items: Integers, device: Device) -> Tensor:
        """The drawings `items[k]` of `classes[k]` as uint8 `[K, channels, height, width]` on the device.

        Raises:
            ValueError: if the arguments are not one-dimensional and of the same length.
        """
        if classes.ndim != 1 or classes.shape != items.shape:
            raise ValueError(
                f"expected classes and items as [K] and [K], got {list(classes.shape)} and {list(items.shape)}; "
                "use np.broadcast_arrays(classes, items) and ravel()"
            )
        return self.pictures(torch.from_numpy(self.ids(classes, items)), device)

    def class_name(self, c: int) -> str:
        return f"class {c}"

    def class_names(self, split: Split) -> list[str]:
        """The names of a split's classes; empty if they are only numbers."""
        return [self.class_name(int(c)) for c in self.splits.get(split, ())] if self.named else []
