"""What the samplers of rendered images share: one task, endless images of it, and no support."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray

from metabox.episodes import Device, Episodes, EpisodeSampler, Examples, Split
from metabox.seeding import Draws
from metabox.tasks.base import Floats

Bytes = NDArray[np.uint8]


class RenderedImages(EpisodeSampler):
    """Images of one multi-target task, drawn anew at every step.

    There is one p(x, y), so the support is empty: each of the T rows of a batch is `n_query` images. Splits differ
    in their draws alone. All is computed on the host, so every device gets the same bits.

    Args:
        n_query: images of a row.
        image_size: height and width in pixels, at least 16.

    Raises:
        ValueError: for sizes that are too small.
    """

    def __init__(self, n_query: int, image_size: int) -> None:
        if n_query < 1 or image_size < 16:
            raise ValueError(
                f"expected n_query of at least 1 and image_size of at least 16, got {n_query} and {image_size}"
            )
        self.n_query = n_query
        self.image_size = image_size

    @abstractmethod
    def render(self, draws: Draws, split: Split) -> tuple[Bytes, Floats]:
        """Images `[T, M, 3, H, W]` and their targets `[T, M, K]`, NaN where one is missing."""

    def sample(
        self, index: int, n_tasks: int, *, split: Split, device: Device = "cpu", seed: int = 0, first: int = 0
    ) -> Episodes:
        """`n_tasks` rows of images; see `EpisodeSampler.sample`."""
        if n_tasks < 1:
            raise ValueError(f"expected n_tasks of at least 1, got {n_tasks}")
        draws = Draws(type(self).__name__, seed, split, index, n_tasks=n_tasks, first=first)
        pixels, targets = self.render(draws, split)
        x, y = torch.from_numpy(pixels).to(device), torch.from_numpy(targets.astype(np.float32)).to(device)
        return Episodes(support=Examples(x=x[:, :0], y=y[:, :0]), query=Examples(x=x, y=y))
