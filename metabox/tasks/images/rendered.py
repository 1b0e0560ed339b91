"""Shared by the samplers of rendered images."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from metabox.arrays import Floats
from metabox.episodes import Split
from metabox.ranges import Count, Within
from metabox.seeding import Draws
from metabox.tasks.multitask.endless import EndlessTask

Side = Annotated[int, Within(least=16)]
Bytes = NDArray[np.uint8]


class RenderedImages(EndlessTask):
    """Images of one multi-target task, drawn anew at every step.

    Args:
        n_query: images in a row of the batch.
        image_size: height and width in pixels, at least 16.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(self, n_query: Count, image_size: Side) -> None:
        super().__init__(n_query)
        self.image_size = image_size

    @abstractmethod
    def render(self, draws: Draws, split: Split) -> tuple[Bytes, Floats]:
        """Images `[T, M, 3, H, W]` and their targets `[T, M, K]`, NaN if missing."""

    def draw(self, draws: Draws, split: Split) -> tuple[Bytes, Floats, None]:
        return *self.render(draws, split), None
