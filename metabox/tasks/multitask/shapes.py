"""Shapes with attributes: synthetic multi-label images, so that every label is known."""

from __future__ import annotations

import numpy as np

from metabox.arrays import Booleans, Floats
from metabox.episodes import Split
from metabox.ranges import BelowOne, Count
from metabox.seeding import Draws
from metabox.targets import Binary, Part, Parts, TaskSpec
from metabox.tasks.images.rendered import Bytes, RenderedImages, Side

ATTRIBUTES = ("ellipse", "rectangle", "warm", "large", "filled", "tilted", "several", "light")

OUTLINE = 1.3  # pixels, in an image of 32
ASPECT = 0.62  # of a shape's width to its height


class Shapes(RenderedImages):
    """Images of ellipses, rectangles and triangles with eight yes/no attributes to predict.

    `ATTRIBUTES`, in the order of the labels: the shape is an ellipse; a rectangle (a triangle if neither); its
    colour is warm (else cold); it is large; filled (else an outline); tilted (else upright); there are several, two or
    three (else one); the background is light. All but the first two are independent, with probability 1/2; the three
    shapes are equally likely. All shapes in an image are alike.

    Args:
        n_query: images in a row of the batch.
        image_size: height and width in pixels, at least 16.
        parts: one named part for each attribute, each with its own loss, instead of one vector of labels.
        missing: the share of the training labels that are hidden (NaN), independently; needs `parts`. Validation and
            test have all labels.

    Raises:
        ValueError: if an option is out of range, or if labels are missing without `parts`.
    """

    def __init__(
        self,
        n_query: Count = 16,
        image_size: Side = 32,
        parts: bool = False,
        missing: BelowOne = 0.0,
    ) -> None:
        super().__init__(n_query, image_size)
        if missing and not parts:
            raise ValueError(f"expected parts=True if labels are missing, got missing {missing} without parts")
        self.parts = parts
        self.missing = missing

    @property
    def spec(self) -> TaskSpec:  # type: ignore[override]  # computed here, an attribute elsewhere
        shape = (3, self.image_size, self.image_size)
        if self.parts:
            parts = tuple(Part(name, Binary(1)) for name in ATTRIBUTES)
            return TaskSpec(shape, Parts(parts))
        return TaskSpec(shape, Binary(len(ATTRIBUTES)))

    def render(self, draws: Draws, split: Split) -> tuple[Bytes, Floats]:
        kind = draws.integers("kind", 0, 2, self.n_query)
        coins = draws.integers("attributes", 0, 1, self.n_query, len(ATTRIBUTES) - 2)
        labels = np.concatenate([kind[..., None] == [0, 1], coins], axis=-1).astype(np.float64)
        images = paint(draws, labels > 0, self.image_size)
        if self.missing and split == "train":
            labels[draws.uniform("missing", 0, 1, *labels.shape[1:]) < self.missing] = np.nan
        return images, labels


def paint(draws: Draws, labels: Booleans, size: int) -> Bytes:
    """Images with the attributes `[T, M, 8]`, as uint8 `[T, M, 3, size, size]`; all else is random."""
    m = labels.shape[1]
    ellipse, rectangle, warm, large, filled, tilted, several, light = (column[..., None] for column in _last(labels))
    unit = size / 32
    height = np.where(large, draws.uniform("large", 6.8, 8.0, m, 1), draws.uniform("small", 4.4, 5.2, m, 1)) * unit
    lean = draws.uniform("lean", 35, 55, m, 1) * np.where(draws.integers("side", 0, 1, m, 1), 1, -1)
    angle = np.radians(np.where(tilted, lean, draws.uniform("upright", -5, 5, m, 1)))

    distance = np.full((*labels.shape[:2], size * size), np.inf)
    n_shapes = np.where(several, draws.integers("count", 2, 3, m, 1), 1)
    for i, centre in enumerate(_centres(draws, several, unit)):
        u, v = _turned(centre, angle, size)
        inside = _distance(u, v, ellipse, rectangle, height)
        inside = np.where(filled, inside, np.maximum(inside, -inside - OUTLINE * unit))
        distance = np.where(i < n_shapes, np.minimum(distance, inside), distance)
    coverage = np.clip(0.5 - distance, 0, 1)[:, :, None]  # a pixel's share of ink, from the distance of its centre

    ink = np.stack([draws.uniform(name, *span, m) for name, span in INK.items()], axis=-1)
    ink = np.where(warm, ink, ink[..., ::-1])[..., None]  # cold: red and blue are swapped
    paper = np.where(light, draws.uniform("light", 190, 235, m, 1), draws.uniform("dark", 10, 60, m, 1))[..., None]
    noise = draws.uniform("noise", -12, 12, m, 3, size * size)
    pixels = np.clip(paper + (ink - paper) * coverage + noise + 0.5, 0, 255)
    return pixels.astype(np.uint8).reshape(*labels.shape[:2], 3, size, size)


INK = {"red": (185, 250), "green": (40, 150), "blue": (10, 60)}


def _last(values: Booleans) -> Booleans:
    return np.moveaxis(values, -1, 0)


def _centres(draws: Draws, several: Booleans, unit: float) -> Floats:
    """Places (row, column) of three shapes, `[3, 2, T, M, 1]`: in different quarters if there are several."""
    t, m = several.shape[:2]
    quarter = draws.distinct("quarters", 3, np.full((t, m), 4), 4, 4)
    in_quarter = 8 + 16 * np.stack([quarter // 2, quarter % 2]) + draws.uniform("place", -1, 1, 2, m, 3).swapaxes(0, 1)
    alone = draws.uniform("place of one", 10, 22, 2, m, 3).swapaxes(0, 1)
    centres: Floats = np.moveaxis(np.where(several, in_quarter, alone), -1, 0)[..., None] * unit
    return centres


def _turned(centre: Floats, angle: Floats, size: int) -> tuple[Floats, Floats]:
    """The centres of all pixels in a shape's coordinates: across and along it, each `[T, M, pixels]`."""
    row, column = np.divmod(np.arange(size * size), size)
    down, right = row + 0.5 - centre[0], column + 0.5 - centre[1]
    return right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)


def _distance(u: Floats, v: Floats, ellipse: Booleans, rectangle: Booleans, height: Floats) -> Floats:
    """Signed distance of (u, v) to the shape, negative inside, in pixels; `height` and width are halves."""
    width = ASPECT * height
    box = np.maximum(np.abs(u) - width, np.abs(v) - height)
    side = (2 * height * np.abs(u) - width * (v + height)) / np.hypot(2 * height, width)
    triangle = np.maximum(side, v - height)
    radius, slope = np.hypot(u / width, v / height), np.hypot(u / width**2, v / height**2)
    oval = radius * (radius - 1) / np.maximum(slope, 1e-9)  # to first order: value over gradient
    return np.where(ellipse, oval, np.where(rectangle, box, triangle))
