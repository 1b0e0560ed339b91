"""From an image of any size and mode to what a learner sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metabox.checks import check_fields
from metabox.ranges import Within


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
    image_size: Annotated[int, Within(least=1, most=1 << 16)] | None
    resample: Literal["box", "bilinear", "lanczos"] = "bilinear"
    enlarged: Annotated[float, Within(least=1, most=2)] = 1.0
    inverted: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

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
