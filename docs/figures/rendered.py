"""Draws docs/_static/shapes.png and scenes.png: images of Shapes, and images of Scenes with their targets."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from metabox.targets.parts import split_parts
from metabox.tasks.multitask.scenes import Scenes
from metabox.tasks.multitask.shapes import Shapes
from metabox.tasks.place import Place

STATIC = Path(__file__).parents[1] / "_static"
CLASS_COLOURS = np.array([[0.45, 0.35, 0.25], [0.85, 0.85, 0.8], [0.85, 0.3, 0.25], [0.25, 0.4, 0.75]])
GAP = 4  # pixels


def sheet(tiles: np.ndarray) -> np.ndarray:
    """Tiles `[rows, columns, H, W, 3]` from 0 to 1, framed in white."""
    framed = np.pad(tiles, ((0, 0), (0, 0), (GAP, GAP), (GAP, GAP), (0, 0)), constant_values=1.0)
    return np.concatenate([np.concatenate(list(row), axis=1) for row in framed], axis=0)


def shapes() -> np.ndarray:
    images = Shapes(n_query=10, image_size=48).sample(Place(2, "train")).query.x
    return images.permute(0, 1, 3, 4, 2).numpy() / 255


def scenes() -> np.ndarray:
    """Columns: the image, its classes, depth (near is dark) and normals (their coordinates as colours), twice."""
    tasks = Scenes(n_query=2, image_size=64)
    query = tasks.sample(Place(3, "train")).query
    parts = {name: part.flatten(0, 1).numpy() for name, part in split_parts(tasks.spec.target.parts, query.y).items()}
    image = query.x.flatten(0, 1).permute(0, 2, 3, 1).numpy() / 255
    classes = CLASS_COLOURS[parts["segmentation"].astype(int)]
    depth = np.repeat(parts["depth"].transpose(0, 2, 3, 1) / parts["depth"].max(), 3, axis=-1)
    normals = (parts["normals"].transpose(0, 2, 3, 1) + 1) / 2
    return np.stack([image, classes, depth, normals], axis=1).reshape(3, 8, 64, 64, 3)


if __name__ == "__main__":
    plt.imsave(STATIC / "shapes.png", sheet(shapes()))
    plt.imsave(STATIC / "scenes.png", sheet(scenes()))
