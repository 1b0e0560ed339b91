"""Draws docs/_static/glyphs.png: six characters of Glyphs in rows, eight drawings of each."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from metabox.tasks.images.glyphs import GlyphImages

CHARACTERS = (1, 10, 103, 201, 207, 215)
DRAWINGS = 8
SIZE, GAP = 56, 8  # pixels


def sheet() -> np.ndarray:
    """Black ink on white, `[height, width]`."""
    glyphs = GlyphImages(image_size=SIZE)
    classes, items = np.repeat(CHARACTERS, DRAWINGS), np.tile(np.arange(DRAWINGS), len(CHARACTERS))
    images = glyphs.gather(classes, items, "cpu").numpy().reshape(len(CHARACTERS), DRAWINGS, SIZE, SIZE)
    framed = np.pad(255 - images, ((0, 0), (0, 0), (GAP, GAP), (GAP, GAP)), constant_values=255)
    return framed.transpose(0, 2, 1, 3).reshape(len(CHARACTERS) * (SIZE + 2 * GAP), -1)


if __name__ == "__main__":
    plt.imsave(Path(__file__).parents[1] / "_static" / "glyphs.png", sheet(), cmap="gray", vmin=0, vmax=255)
