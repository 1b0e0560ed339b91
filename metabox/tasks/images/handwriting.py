"""Handwriting: generated characters that come closer to real ones than `Glyphs`, in alphabets.

The parts of `Glyphs` and its rules (see there: CPU and CUDA give the same bits), with more of what real drawings have:

- alphabet: 64 classes that share their sub-strokes, curvature and slant, so that they are harder to tell apart;
- class: one or two parts of 1 to 4 pieces; a piece may return to the start of the one before (an arc closes to an oval,
  an S to an 8);
- drawing: neat or sloppy; noise on each control point; a bend of the page; any size, place and proportions;
- scan: pen pressure that changes across the page, blur, contrast.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metabox.checks import checked
from metabox.config import Unpack
from metabox.tasks.images.glyphs import CLASSES_PER_SPLIT, GlyphImages, Side, Wobble
from metabox.tasks.images.strokes import (
    PIECES,
    bell,
    direction,
    fit,
    trace,
    uniform,
    words_of,
    words_of_classes,
    words_of_drawings,
)
from metabox.tasks.nway import NWayKShot, NWayOptions

ALPHABET = 64  # classes
SHARED = 8  # words of an alphabet
COMPLICATED = 0.5  # share of classes of two parts, with up to PIECES pieces each
JOIN = 8  # words of a class for how they are joined
CLOSING = 0.2  # share of pieces that return to the start of the one before
HAND = 16 * PIECES + 8  # words of a drawing for noise on its control points, and for its page
SCAN = 12  # words of a drawing for its scan


def _in_alphabets(traits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The traits of classes as their alphabets have them, and a word of the alphabet's slant `[K]`."""
    shared = uniform(words_of_classes(classes // ALPHABET, SHARED, "handwriting", "shared"))
    traits = traits.clone()
    slot = traits[..., 0] * 4.0
    choice = slot.floor()
    kind = slot - choice  # three of four pieces are of the alphabet's three kinds
    for i in range(3):
        kind = torch.where(choice == i, shared[:, i, None], kind)
    traits[..., 0] = kind
    traits[..., 2] = (traits[..., 2] + shared[:, 3, None]) * 0.5  # curvature
    # A third of the alphabets joins most pieces, a third few.
    traits[..., 8] = (traits[..., 8] + (shared[:, 4, None] - 0.5) * 0.5).clamp(0.0, 0.999)
    return traits, shared[:, 5]


def _closed(pieces: list[list[Tensor]], more: Tensor) -> list[list[Tensor]]:
    """Let some pieces return to the start of the one before, turned by half a turn; and characters of one piece.

    more: uniform words of the class `[K, PIECES]`
    """
    made = [pieces[0]]
    for i in range(1, PIECES):
        start, out, back, end = pieces[i - 1]
        both = start + end
        returning = [end, both - out, both - back, start]
        closes = (more[:, i] < CLOSING)[:, None]
        piece = [torch.where(closes, new, old) for new, old in zip(returning, pieces[i], strict=True)]
        made.append(piece)
    single = (more[:, 0] < 0.3)[:, None]
    # Of one piece, or of one that closes: the others repeat it.
    return made[:2] + [[torch.where(single, a, b) for a, b in zip(made[i % 2], made[i], strict=True)] for i in (2, 3)]


def _joined(first: list[list[Tensor]], second: list[list[Tensor]], join: Tensor) -> list[list[Tensor]]:
    """The second part of a character, laid on the first or beside it; simple characters repeat the first.

    join: uniform words of the class `[K, JOIN]`
    """
    column = join[..., None].unbind(1)
    piece = [torch.where(column[0] < 0.5, a, b) for a, b in zip(first[0], first[-1], strict=True)]
    on = torch.where(column[1] < 0.4, piece[0], piece[3])
    size = column[2] * 0.5 + 0.5
    apart = direction(join[:, 3] * 4.0) * (column[4] * 0.6 + 0.2)
    on = on + torch.where(column[5] < 0.4, apart, torch.zeros_like(apart)) - second[0][0] * size
    complicated = column[6] < COMPLICATED
    return [
        [torch.where(complicated, b * size + on, a) for a, b in zip(one, other, strict=True)]
        for one, other in zip(first, second, strict=True)
    ]


def _by_hand(pieces: list[list[Tensor]], noise: Tensor, slant: Tensor, wobble: float) -> list[list[Tensor]]:
    """Noise on each control point, the slant of the alphabet, and a bend of the page; noise `[K, HAND]`."""
    sloppy = (noise[:, -1:] * 0.6 + 1.0) * (0.12 * wobble)
    points = torch.stack([point for piece in pieces for point in piece], dim=1)  # [K, 2 * PIECES * 4, 2]
    points = points + noise[:, : 16 * PIECES].reshape(-1, 8 * PIECES, 2) * sloppy[..., None]
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    half = ((high - low) * 0.5).amax(2, keepdim=True).clamp(min=0.1)
    x, y = ((points - (low + high) * 0.5) / half).unbind(-1)  # within -1 ... 1
    page = (noise[:, 16 * PIECES :] * (0.3 * wobble))[..., None].unbind(1)
    x, y = x + y * y * page[0] + x * y * page[1], y + x * x * page[2] + x * y * page[3]
    x = x * (page[4] + 1.0) + y * ((slant * 0.5)[:, None] + page[5])
    points = torch.stack((x, y), dim=-1)
    return [list(points[:, 4 * i : 4 * i + 4].unbind(1)) for i in range(2 * PIECES)]


def _neighbours(picture: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The picture moved by a pixel up, down, left and right, with an empty border: `[K, H, W]` each."""
    wide = torch.nn.functional.pad(picture, (1, 1, 1, 1))
    return wide[:, 2:, 1:-1], wide[:, :-2, 1:-1], wide[:, 1:-1, 2:], wide[:, 1:-1, :-2]


def _pressed(picture: Tensor, pressure: Tensor) -> Tensor:
    """A wider line: each pixel at least `pressure` times the strongest of its neighbours."""
    up, down, left, right = _neighbours(picture)
    return torch.maximum(picture, torch.maximum(torch.maximum(up, down), torch.maximum(left, right)) * pressure)


def _blurred(picture: Tensor, share: Tensor) -> Tensor:
    """Each pixel gives `share` of its ink to each of its four neighbours."""
    up, down, left, right = _neighbours(picture)
    return picture * (1.0 - share * 4.0) + (up + down + left + right) * share


class HandwritingImages(GlyphImages):
    """`GlyphImages` in alphabets (the groups) and nearer to real drawings; see `Handwriting`."""

    samples = 30  # of shorter pieces than those of `Glyphs`

    @checked
    def __init__(self, image_size: Side = 28, wobble: Wobble = 1.0) -> None:
        super().__init__(image_size, wobble)
        self.groups = np.arange(3 * CLASSES_PER_SPLIT) // ALPHABET
        self.fingerprint = f"Handwriting 1 (generated), image_size {image_size}, wobble {wobble}"

    def lines(self, classes: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        noise = bell(words_of_drawings(classes, items, HAND, "handwriting", "hand"))
        first, warps, slant = self._part(classes, items)
        second, _, _ = self._part(classes + len(self.sizes), items)
        join = uniform(words_of_classes(classes, JOIN, "handwriting", "join"))
        pieces = _by_hand(first + _joined(first, second, join), noise, slant - 0.5, self.wobble)
        control, pen = fit(pieces, bell(warps), self.image_size, self.wobble)
        page = noise[:, 16 * PIECES + 6 :]
        centre = (self.image_size - 1) * 0.5
        scale = (page[:, 0] * (0.2 * self.wobble) + 0.92)[:, None]
        return (control - centre) * scale + centre, pen

    def _part(self, classes: Tensor, items: Tensor) -> tuple[list[list[Tensor]], Tensor, Tensor]:
        words, tremors, warps = words_of(classes, items)
        traits, slant = _in_alphabets(uniform(words), classes % len(self.sizes))
        more = uniform(words_of_classes(classes, PIECES, "handwriting", "closing"))
        return _closed(trace(traits, bell(tremors) * self.wobble), more), warps, slant

    def finished(self, ink: Tensor, classes: Tensor, items: Tensor) -> Tensor:
        words = uniform(words_of_drawings(classes, items, SCAN, "handwriting", "scan"))
        word = words[..., None, None].unbind(1)
        place = torch.arange(self.image_size, device=ink.device) * (2.0 / self.image_size) - 1.0
        slope = place[:, None] * (word[0] - 0.5) + place * (word[1] - 0.5)
        # Most drawings are written with a thin pen.
        picture = _pressed(ink, (word[2] * 3.0 - 1.9 + slope).clamp(0.0, 1.0))
        picture = _pressed(picture, (word[3] * 5.0 - 4.2 + slope).clamp(0.0, 1.0))
        picture = _blurred(picture, (word[4] * 0.4 - 0.2).clamp(min=0.0))
        picture = _blurred(picture, (word[5] * 0.8 - 0.6).clamp(min=0.0))
        return (picture * (word[6] * 0.9 + 0.75)).clamp(0.0, 255.0)


class Handwriting(NWayKShot):
    """N-way K-shot episodes of generated characters made to resemble real handwriting: nothing to download.

    Classes come in alphabets of 64 (`within_groups`), 2**14 of them for each split. Images are ink 255 on 0.
    A learner that was trained on them only is meant for real characters; `Glyphs` is simpler and faster.

    Args:
        image_size: height and width in pixels.
        wobble: how much the drawings of a class differ in shape, from 0 to 2 (wild).
        **kwargs: of `NWayKShot`.

    Raises:
        ValueError: if image_size is outside [8, 1024] or wobble outside [0, 2].
    """

    def __init__(self, image_size: Side = 28, wobble: Wobble = 1.0, **kwargs: Unpack[NWayOptions]) -> None:
        super().__init__(**kwargs)
        self._images = HandwritingImages(image_size, wobble)

    def load(self) -> HandwritingImages:
        return self._images
