"""Glyphs: an endless, procedural p(T) of handwritten-looking characters, rendered on the device; see `strokes`."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from metabox.arrays import Integers
from metabox.checks import checked
from metabox.config import Unpack
from metabox.data.class_images import ClassImages
from metabox.episodes import SPLITS, Device, moved
from metabox.ranges import Within
from metabox.tasks.images.strokes import SAMPLES, bell, draw, fit, trace, uniform, words_of
from metabox.tasks.nway import NWayKShot, NWayOptions

Side = Annotated[int, Within(least=8, most=1024)]
Wobble = Annotated[float, Within(least=0, most=2)]

CLASSES_PER_SPLIT = 1 << 20
DRAWINGS = 1 << 20


class GlyphImages(ClassImages):
    """2**20 classes in each split, disjoint between splits, with 2**20 drawings each; rendered on demand.

    Args, errors: see `Glyphs`.
    """

    groups: Integers | None = None
    samples = SAMPLES  # see there

    @checked
    def __init__(self, image_size: Side = 28, wobble: Wobble = 1.0) -> None:
        self.image_size, self.wobble = image_size, wobble
        self.image_shape = (1, image_size, image_size)
        n = CLASSES_PER_SPLIT
        self.splits = {split: np.arange(i * n, (i + 1) * n) for i, split in enumerate(SPLITS)}
        self.sizes = np.broadcast_to(np.int64(DRAWINGS), len(SPLITS) * n)  # one number, broadcast
        self.fingerprint = f"Glyphs 1 (generated), image_size {image_size}, wobble {wobble}"

    def ids(self, classes: Integers, items: Integers) -> Integers:
        """See `ClassImages.ids`.

        Raises:
            ValueError: if a class or a drawing is out of range.
        """
        for name, ids, end in (("classes", classes, len(self.sizes)), ("items", items, DRAWINGS)):
            if ids.size and not 0 <= ids.min() <= ids.max() < end:
                raise ValueError(f"expected {name} from 0 to {end - 1}, got {ids.min()} to {ids.max()}; use id % {end}")
        return super().ids(classes, items)

    def pictures(self, ids: Tensor, device: Device) -> Tensor:
        """The drawings, uint8 `[K, 1, image_size, image_size]`, ink 255 on 0."""
        # On a CPU, in chunks that fit the cache and stay below 32768 numbers, torch's threshold for a second thread:
        # threads gain little here, and stall for milliseconds if another process uses the other core.
        # On other devices, in few launches. The pixels do not depend on the chunks.
        on_cpu = torch.device(device).type == "cpu"
        shapes = 500 if on_cpu else 1 << 14
        pictures = max(1, (22 if on_cpu else 1 << 10) * 28**3 // self.image_size**3)
        images = torch.empty(len(ids), *self.image_shape, dtype=torch.uint8, device=device)
        for start in range(0, len(ids), shapes):
            part = slice(start, start + shapes)
            few_ids = moved(ids[part], device)
            classes, items = few_ids >> 32, few_ids & 0xFFFFFFFF
            control, pen = self.lines(classes, items)
            for first in range(0, len(few_ids), pictures):
                few = slice(first, first + pictures)
                ink = draw(control[:, :, few].flatten(2), pen[few], self.image_size, self.samples)
                images[part][few, 0] = self.finished(ink, classes[few], items[few])
        return images

    def lines(self, classes: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Control points of the drawings in pixels `[2, 4, K, pieces]`, and the radius of the pen `[K]`."""
        traits, tremors, warps = words_of(classes, items)
        pieces = trace(uniform(traits), bell(tremors) * self.wobble)
        return fit(pieces, bell(warps), self.image_size, self.wobble)

    def finished(self, ink: Tensor, classes: Tensor, items: Tensor) -> Tensor:
        """The picture of the ink, both 0 to 255 and `[K, image_size, image_size]`; uint8 truncates."""
        return ink


class Glyphs(NWayKShot):
    """N-way K-shot episodes of generated characters: endless classes, nothing to download.

    Meta-training draws from 2**20 classes, meta-validation and meta-test from 2**20 others each: too
    many to memorise, so a learner can only improve by learning to learn. Images are ink 255 on 0.

    Args:
        image_size: height and width in pixels.
        wobble: how much the drawings of a class differ, from 0 (only in pen width and place) to 2 (wild).
        **kwargs: of `NWayKShot`; the classes have no groups.

    Raises:
        ValueError: if image_size is outside [8, 1024] or wobble outside [0, 2].
    """

    def __init__(self, image_size: Side = 28, wobble: Wobble = 1.0, **kwargs: Unpack[NWayOptions]) -> None:
        super().__init__(**kwargs)
        self._images = GlyphImages(image_size, wobble)

    def load(self) -> GlyphImages:
        return self._images
