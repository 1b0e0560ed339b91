"""Draws docs/_static/shapes.png, scenes.png and stripes.png.

They are images of Shapes, images of Scenes with their targets, and a task of the guide on task distributions, whose own
code is run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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


def stripes() -> np.ndarray:
    """Four classes, a column each, with three drawings."""
    guide = (STATIC.parent / "guides" / "distribution.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(# stripes\.py\n.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": "stripes"}
    exec(compile(code, "stripes.py", "exec"), names)
    support = names["Stripes"](n_way=4, n_shot=3, n_query=1).sample(Place(1, "train")).support
    images = support.x[0, support.y[0].argsort(stable=True), 0].numpy().reshape(4, 3, 16, 16)
    large = images.repeat(4, axis=2).repeat(4, axis=3) / 255
    return np.repeat(large.swapaxes(0, 1)[..., None], 3, axis=-1)


def save(picture: Image.Image, name: str, colours: int = 96) -> None:
    """With few colours, so that the file is small."""
    picture.convert("RGB").quantize(colours).save(STATIC / name, optimize=True)


def drawn(tiles: np.ndarray) -> Image.Image:
    return Image.fromarray((sheet(tiles) * 255).round().astype(np.uint8))


if __name__ == "__main__":
    save(drawn(stripes()), "stripes.png", 32)
    save(drawn(shapes()), "shapes.png")
    save(drawn(scenes()), "scenes.png", 128)
