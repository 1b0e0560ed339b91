"""From an image of any size and mode to what a learner sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Preprocessing:
    """How the images of a set were preprocessed, so that others can be treated in the same way.

    Args:
        channels: 1 for grey, 3 for RGB.
        image_size: side in pixels of the square to which an image is resized; None keeps its size.
        resample: Pillow's name of the filter for resizing.
        enlarged: the image is resized to this multiple of `image_size`, and its centre is cropped.
        inverted: whether to invert grey levels, from dark on light to light on dark.

    Raises:
        ValueError: if an argument has another value.
    """

    channels: Literal[1, 3]
    image_size: int | None
    resample: Literal["box", "bilinear", "lanczos"] = "bilinear"
    enlarged: float = 1.0
    inverted: bool = False

    def __post_init__(self) -> None:
        if self.channels not in (1, 3) or self.resample not in ("box", "bilinear", "lanczos"):
            raise ValueError(
                "expected channels 1 or 3 and resample box, bilinear or lanczos, got "
                f"{self.channels!r} and {self.resample!r}"
            )
        if not isinstance(self.enlarged, (int, float)) or not 1 <= self.enlarged <= 2:
            raise ValueError(f"expected enlarged from 1 to 2, got {self.enlarged!r}")
        size = self.image_size
        if not isinstance(self.inverted, bool) or not (size is None or (type(size) is int and 1 <= size <= 1 << 16)):
            raise ValueError(
                f"expected image_size from 1 to 65536 or None and inverted true or false, got {size!r} and "
                f"{self.inverted!r}"
            )

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """The image as uint8 `[channels, height, width]`."""
        image = image.convert("L" if self.channels == 1 else "RGB")
        size = self.image_size
        if size is not None:
            large = int(size * self.enlarged)
            first = (large - size) // 2
            if image.size != (large, large):
                image = image.resize((large, large), Image.Resampling[self.resample.upper()])
            if large > size:
                image = image.crop((first, first, first + size, first + size))
        pixels = np.asarray(image).reshape(image.height, image.width, self.channels).transpose(2, 0, 1)
        return np.ascontiguousarray(255 - pixels if self.inverted else pixels)
