"""From an image of any size and mode to what a learner sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from metabox.checks import check_fields
from metabox.data.viewing import as_shown, flat
from metabox.ranges import Within

Pixels = Annotated[int, Within(least=1, most=1 << 16)]
ImageSize = Pixels | tuple[Pixels, Pixels]
"""One number for a square, or (height, width)."""
Fit = Literal["squash", "crop", "pad"]
LEAST_CONTRAST = 32
Level = Annotated[int, Within(least=0, most=255)]


@dataclass(frozen=True)
class Preprocessing:
    """How the images of a set were preprocessed, so that others can be treated in the same way.

    Args:
        channels: 1 for grey, 3 for RGB.
        image_size: side in pixels of the square to which an image is resized, or (height, width); None keeps its size.
        resample: Pillow's name of the filter for resizing.
        enlarged: the image is resized to this multiple of `image_size`, and its centre is cropped.
        inverted: whether to invert grey levels, from dark on light to light on dark; "auto" brings ink of either kind
            to light on dark and full contrast: the paper, which is the median of the border, becomes 0.
        fit: how an image of other proportions gets the size: "squash" changes its proportions, "crop" cuts off what
            sticks out on both sides, "pad" adds borders of the background.
        background: grey level behind transparent pixels (and in borders), before it is inverted.

    Raises:
        ValueError: if an argument has another value.
    """

    channels: Literal[1, 3]
    image_size: ImageSize | None
    resample: Literal["box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    enlarged: Annotated[float, Within(least=1, most=2)] = 1.0
    inverted: bool | Literal["auto"] = False
    fit: Fit = "squash"
    background: Level = 255

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """The image, of any mode, as a person sees it: uint8 `[channels, height, width]`.

        Raises:
            ValueError: if its values have no scale of grey levels; see `as_shown`.
        """
        image = flat(as_shown(image), "L" if self.channels == 1 else "RGB", self.background)
        if self.image_size is not None:
            image = self._resized(image, self.image_size)
        pixels = np.asarray(image).reshape(image.height, image.width, self.channels).transpose(2, 0, 1)
        if self.inverted == "auto":
            return _ink(pixels)
        return np.ascontiguousarray(255 - pixels if self.inverted else pixels)

    def _resized(self, image: Image.Image, size: ImageSize) -> Image.Image:
        height, width = (size, size) if isinstance(size, int) else size
        large = int(width * self.enlarged), int(height * self.enlarged)
        resample = Image.Resampling[self.resample.upper()]
        if image.size != large:
            if self.fit == "squash":
                image = image.resize(large, resample)
            elif self.fit == "crop":
                image = ImageOps.fit(image, large, resample)
            else:
                level = self.background
                if self.inverted == "auto":
                    level = round(_paper(np.asarray(image.convert("L"))[None]))
                image = ImageOps.pad(image, large, resample, color=(level,) * self.channels)
        if large != (width, height):
            left, top = (large[0] - width) // 2, (large[1] - height) // 2
            image = image.crop((left, top, left + width, top + height))
        return image


def _ink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How far each level is from that of the paper, with the furthest at 255; noise of blank paper stays faint."""
    far = pixels.astype(np.float64) - _paper(pixels)
    far = -far if far.max() < -far.min() else far
    ink: NDArray[np.uint8] = np.round(far.clip(0) * (255 / max(far.max(), LEAST_CONTRAST))).astype(np.uint8)
    return ink


def _paper(pixels: NDArray[np.uint8]) -> float:
    border = [pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]]
    return float(np.median(np.concatenate(border, axis=1)))
