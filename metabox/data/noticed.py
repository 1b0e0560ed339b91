"""What is worth a line while the images of a set are read, and what makes them useless."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metabox.data.decode import SEVERAL
from metabox.data.readers import name_some

STRONG = 16  # times that a side is shrunk: a photograph to the size of a character

log = logging.getLogger(__name__)


@dataclass
class Noticed:
    """What has been noticed in the images seen so far."""

    several: list[str] = field(default_factory=list)
    shrunk: list[str] = field(default_factory=list)
    varied: bool = False

    def see(self, name: str, image: Image.Image, made: NDArray[np.uint8]) -> None:
        """An image of a file, and what became of it `[channels, height, width]`."""
        if image.info.get(SEVERAL):
            self.several.append(name)
        height, width = made.shape[1:]
        if min(image.width / width, image.height / height) >= STRONG:
            self.shrunk.append(f"{name} from {image.width}x{image.height} to {width}x{height}")
        self.varied = self.varied or made.size == made.shape[0] or bool((made != made[:, :1, :1]).any())

    def wrong(self) -> list[str]:
        return [] if self.varied else ["images that are each of one colour all over"]

    def say(self, title: str) -> None:
        """Log a line for each thing worth one."""
        if self.several:
            log.warning("%s: the first frame or page is taken of %s", title, name_some(self.several))
        if self.shrunk:
            log.warning(
                "%s: %d images lose most of their detail, %s; a larger image_size keeps more",
                *(title, len(self.shrunk), name_some(self.shrunk, 1)),
            )
