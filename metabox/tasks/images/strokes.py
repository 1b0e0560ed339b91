"""The pen strokes of generated characters: what is drawn, and how it becomes an image on the device.

The generative story follows Lake et al. 2015 ("Human-level concept learning through
probabilistic program induction"): a character is a program of pen strokes made of simple
sub-strokes, joined by a few relations; a drawing runs the program with motor noise, then
warps it as a whole. Nothing is learned or stored here. The sub-strokes are cubic Bezier curves:

    class    2 to 4 pieces, each a straight line, arc, hook, S or loop; each goes on from the one
             before (smoothly or round a corner) or starts anew (on it, across it, apart from it)
    drawing  noise on each piece's heading, length, bend and place; then rotation, shear, aspect,
             size, shift and pen width

Every number is a hash of (class, position) or of (class, drawing, position), so a drawing does
not depend on the rest of its batch, and CPU and CUDA give THE SAME BITS by construction. This
holds because each step is one of the following, in a kernel of its own:

* integer arithmetic; + - * / min max clamp floor round of float32, each exact to the last bit
  under IEEE 754. Two in one kernel (addcmul, lerp, add with alpha) may be fused on one device
  only, and sin, cos, exp, pow come from different libraries. So an angle becomes a vector by the
  rational parametrisation ((1-t²)/(1+t²), 2t/(1+t²)), and powers are products;
* tensor * constant, never tensor / constant: CUDA would multiply by the rounded reciprocal;
* a minimum or maximum over many, which does not depend on their order. Sums are written out, term by term: the
  order of sum(), mean() and matmul differs between devices.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from metabox.episodes import moved
from metabox.seeding import hash_words, make_key, mix

PIECES = 4
TRAITS = 16  # words of a class for each piece
TREMORS = 6  # words of a drawing for each piece
WARPS = 8  # words of a drawing as a whole
SAMPLES = 40  # pen positions along a piece, at 28 pixels: a third of a pixel apart, rarely a whole one
THICKEST = 1.0  # largest pen radius, in pixels, at 28 pixels
GRID_BITS = 8
GRID = 1 << GRID_BITS  # steps in a pixel
FAR = 2**30  # squared distance, in steps, of a pixel that no pen position reaches

# One piece: angles in quarter turns, measured from its chord.
#   bend from ... to ..., leaves at this multiple of it, arrives at this one, chord length, handle / chord
STRAIGHT = (0.0, 0.0, 0.0, 0.0, 1.00, 0.33)
ARC = (0.40, 1.25, 1.0, -1.0, 0.85, 0.33)
HOOK = (0.90, 1.60, 0.0, -1.0, 0.90, 0.45)
SNAKE = (0.60, 1.00, 1.0, 1.0, 1.10, 0.45)
LOOP = (1.30, 1.55, 1.0, -1.0, 0.30, 2.00)
KINDS = (STRAIGHT, STRAIGHT, STRAIGHT, STRAIGHT, ARC, ARC, ARC, HOOK, SNAKE, LOOP)  # equally likely


def uniform(words: Tensor) -> Tensor:
    """32 random bits to a float32 in [0, 1): its 24 high bits, which float32 holds exactly."""
    return (words >> 8).float() * 2.0**-24


def bell(words: Tensor) -> Tensor:
    """32 random bits to a float32 in (-1, 1), likelier near 0: the centred sum of two 16-bit uniforms."""
    return ((words >> 16) + (words & 0xFFFF) - 0xFFFF).float() * 2.0**-16


def direction(quarters: Tensor) -> Tensor:
    """The unit vector at an angle in quarter turns (to within 1/40 of one): `[K] -> [K, 2]`."""
    wrapped = quarters - (quarters * 0.25).round() * 4.0
    v = wrapped * 0.5
    t = v * (v * v * 0.2146 + 0.7854)  # close to the tangent of a quarter of the angle, and exact at its ends
    square = t * t
    cos, sin = (1.0 - square) / (1.0 + square), t * 2.0 / (1.0 + square)
    return torch.stack((cos * cos - sin * sin, cos * sin * 2.0), dim=-1)  # twice the angle


def words_of_classes(classes: Tensor, count: int, *name: str) -> Tensor:
    """Random words of each class under a name, `[K, count]`."""
    position = torch.arange(count, device=classes.device)
    return hash_words(classes[:, None] * count + position, make_key(*name))


def words_of_drawings(classes: Tensor, items: Tensor, count: int, *name: str) -> Tensor:
    """Random words of each drawing under a name, `[K, count]`."""
    # Class, drawing and position together exceed 32 bits: the class gives the key, the others the counter.
    low, high = (hash_words(classes, make_key(*name, i))[:, None] for i in range(2))
    position = torch.arange(count, device=classes.device)
    return mix(mix((items[:, None] * count + position) ^ low) ^ high)


def words_of(classes: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Words of the class `[K, PIECES, TRAITS]`, of the drawing `[K, PIECES, TREMORS]` and its warp `[K, WARPS]`."""
    traits = words_of_classes(classes, PIECES * TRAITS, "glyphs", "class")
    drawing = words_of_drawings(classes, items, PIECES * TREMORS + WARPS, "glyphs", "key")
    tremors, warps = drawing[:, : PIECES * TREMORS], drawing[:, PIECES * TREMORS :]
    return traits.view(-1, PIECES, TRAITS), tremors.reshape(-1, PIECES, TREMORS), warps


def trace(traits: Tensor, tremor: Tensor) -> list[list[Tensor]]:
    """Run the program of each character: the four control points `[K, 2]` of each piece, in arbitrary units.

    traits: uniform `[K, PIECES, TRAITS]`; tremor: motor noise `[K, PIECES, TREMORS]`
    """
    kinds = moved(torch.tensor(KINDS, dtype=torch.float32), traits.device)
    kind = kinds.index_select(0, (traits[..., 0] * len(KINDS)).long().view(-1)).view(-1, PIECES, kinds.shape[1])
    low, high, leaves, arrives, chord, handle = kind.unbind(-1)
    side = (traits[..., 1] < 0.5).float() * 2.0 - 1.0
    bend = (low + (high - low) * traits[..., 2]) * side
    handle = handle + bend * bend * 0.33  # makes an arc circular
    leave = bend * leaves + tremor[..., 0] * 0.20
    arrive = bend * arrives + tremor[..., 1] * 0.20
    length = chord * (traits[..., 3] * 0.7 + 0.6) * (tremor[..., 2] * 0.3 + 1.0)
    # Scripts favour verticals, horizontals and diagonals: headings are roughly eighths of a turn.
    heading = (traits[..., 4] * 8.0).floor() * 0.5 + traits[..., 5] * 0.3 + tremor[..., 3] * 0.20
    corner = ((traits[..., 6] * 3.0).floor() * 0.5 + 0.5) * side + tremor[..., 3] * 0.20
    count = 4.0 - (traits[:, 0, 7:8] * 2.5).floor()  # 4, 3 or 2 pieces, in the ratio 2 : 2 : 1

    pieces: list[list[Tensor]] = []
    angle = heading[:, 0]
    start = torch.zeros_like(tremor[:, 0, :2])
    for i in range(PIECES):
        trait = traits[:, i]
        goes_on = trait[:, 8] < 0.45
        if i:
            smooth = angle + arrive[:, i - 1] - leave[:, i]
            onward = torch.where(trait[:, 9] < 0.4, smooth, angle + corner[:, i])
            angle = torch.where(goes_on, onward, heading[:, i])
        step = direction(angle) * length[:, i, None]
        if i:
            anew = _start_anew(pieces, trait, step) + tremor[:, i, 4:6] * 0.12
            start = torch.where(goes_on[:, None], pieces[-1][3], anew)
        reach = (length[:, i] * handle[:, i])[:, None]
        end = start + step
        out, back = direction(angle + leave[:, i]) * reach, direction(angle + arrive[:, i]) * reach
        piece = [start, start + out, end - back, end]
        if i >= 2:  # a finished character draws its last piece again, so that nothing is masked
            piece = [torch.where(count > i, new, old) for new, old in zip(piece, pieces[-1], strict=True)]
        pieces.append(piece)
    return pieces


def _start_anew(pieces: list[list[Tensor]], trait: Tensor, step: Tensor) -> Tensor:
    """Where a lifted pen comes down, `[K, 2]`: at a point of an earlier piece, or at some distance from it."""
    earlier = [torch.where(trait[:, 10:11] < 0.5, a, b) for a, b in zip(pieces[-1], pieces[0], strict=True)]
    middle = (earlier[0] + earlier[3] + (earlier[1] + earlier[2]) * 3.0) * 0.125
    place = trait[:, 11:12]
    on = torch.where(place < 0.25, earlier[0], torch.where(place < 0.75, middle, earlier[3]))
    across = (trait[:, 12:13] * 3.0).floor() * 0.5  # the new piece has its start, middle or end there
    apart = direction(trait[:, 13] * 4.0) * (trait[:, 14:15] * 0.3 + 0.4)
    return on - step * across + torch.where(trait[:, 15:16] < 0.35, apart, torch.zeros_like(apart))


def fit(pieces: list[list[Tensor]], warp: Tensor, size: int, wobble: float) -> tuple[Tensor, Tensor]:
    """Warp each drawing as a whole and fit it into a frame of `size` pixels; warp: noise `[K, WARPS]`.

    Returns the control points in pixels `[2, 4, K, pieces]`, and the radius of the pen `[K]`.
    """
    x, y = torch.stack([p for piece in pieces for p in piece], dim=-1).unbind(1)  # [K, pieces * 4]
    column = warp[..., None].unbind(1)
    turn = direction(warp[:, 2] * (0.25 * wobble))[..., None]
    x = x * (column[0] * (0.3 * wobble) + 1.0) + y * (column[1] * (0.35 * wobble))
    x, y = x * turn[:, 0] - y * turn[:, 1], x * turn[:, 1] + y * turn[:, 0]

    unit = size / 28
    pen = (column[3] * 0.2 + (THICKEST - 0.2)) * unit
    control = torch.stack((x, y)).view(2, len(warp), len(pieces), 4)
    points = _along(control.permute(0, 3, 1, 2).flatten(2), 5).view(2, len(warp), -1)
    low, high = points.amin(2, keepdim=True), points.amax(2, keepdim=True)  # [2, K, 1]
    spread = high - low
    scale = (column[4] * (2.5 * wobble) + 20.0) * unit / spread.amax(0).clamp(min=0.1)
    room = ((size - 1) - spread * scale) * 0.5 - pen
    shift = torch.stack((column[5], column[6])) * room.clamp(min=0.0, max=3.0 * unit)
    centre = shift + (size - 1) * 0.5
    laid = (control - ((low + high) * 0.5)[..., None]) * scale[..., None] + centre[..., None]
    return laid.permute(0, 3, 1, 2).contiguous(), pen[:, 0]


@lru_cache(maxsize=16)
def _basis(samples: int, device: torch.device) -> Tensor:
    """The four Bernstein polynomials at evenly spaced parameters, `[4, samples]`; computed on the host."""
    t = np.linspace(0.0, 1.0, samples)
    rows = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
    return torch.from_numpy(np.stack(rows).astype(np.float32)).to(device)


def _along(control: Tensor, samples: int) -> Tensor:
    """Points along Bezier curves, control points `[2, 4, L]` to `[2, L, samples]`."""
    weight = _basis(samples, control.device)
    point = control[:, 0, :, None] * weight[0]
    for i in range(1, 4):
        point += control[:, i, :, None] * weight[i]
    return point


def draw(control: Tensor, pen: Tensor, size: int, samples: int = SAMPLES) -> Tensor:
    """Draw with a round pen: coverage times 255, `[K, size, size]`, from the distance to the nearest pen position.

    A pen position reaches only a small window of pixels (9 of all 784), so the distances of those
    are scattered into the image by a running minimum.
    """
    unit = size / 28
    reach = math.ceil(THICKEST * unit)
    side = size + 2 * reach  # a border, so that no window leaves the image
    k, device = len(pen), control.device
    point = _along(control, math.ceil(samples * unit)).clamp_(0.0, size - 1.0)
    point = (point * GRID).to(torch.int32)  # from here on in integer steps of 1/256 pixel
    pixel = (point + GRID // 2) >> GRID_BITS
    offset = torch.arange(-reach, reach + 1, device=device)
    gap = (pixel * GRID - point).view(2, 1, -1) + (offset * GRID).to(torch.int32)[:, None]
    gap *= gap
    distance = gap[1][:, None] + gap[0]  # [window, window, points], squared
    corner = torch.arange(k, dtype=torch.int32, device=device) * (side * side) + (side + 1) * reach
    column, row = pixel.view(2, k, -1)
    centre = (row * side + column + corner[:, None]).long()
    index = (offset[:, None] * side + offset).view(-1, 1) + centre.view(-1)
    canvas = torch.full((k * side * side,), FAR, dtype=torch.int32, device=device)
    # On the CPU, one long axis, int32 and the order along the strokes make this five times as fast.
    canvas.scatter_reduce_(0, index.view(-1), distance.view(-1), "amin")
    # Coverage falls from 1 to 0 across the pixel at the pen's rim, linearly in the squared distance.
    outer = pen + 0.5
    coverage = (outer * outer)[:, None] - canvas.float().mul_(1.0 / GRID**2).view(k, -1)
    whole = coverage.mul_((0.5 / pen)[:, None]).clamp_(0.0, 1.0).mul_(255.0).add_(0.5)  # uint8 truncates
    return whole.view(k, side, side)[:, reach : reach + size, reach : reach + size]
