"""What a person sees in an image: its grey levels, which way is up, and what shows through its transparent parts."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ORIENTATION, SHORT = 0x0112, 3  # tag and type of an EXIF entry
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIXTEEN_BITS = ("PNG", "PPM")  # formats that Pillow decodes to the mode "I" only from 16 bits
BITS, MEANING, WHITE_IS_ZERO = 258, 262, 0  # TIFF tags BitsPerSample and PhotometricInterpretation, and a value of it


def as_shown(image: Image.Image) -> Image.Image:
    """The image as a viewer shows it: turned as its metadata say, with 8 bits a channel. Transparency is kept.

    Grey levels of 16 bits are scaled to 8. Whole numbers of 32 bits and floats say nothing of their scale, so it is
    told by their largest value: at most 1 (floats only), 255 or 65,535 stands for white. An image that has been
    treated so already is returned as it is.

    Raises:
        ValueError: if its values have no such scale.
    """
    turn = TURNS.get(_orientation(image.info.get("exif", b"")))
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if turn is not None:
        image = image.transpose(turn)
        del image.info["exif"]
    return image


def flat(image: Image.Image, mode: str, background: int) -> Image.Image:
    """The image in the mode "L" or "RGB", over a background of this grey level where it is transparent."""
    if image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, (background,) * 3 + (255,)), over)
    if image.mode == "LAB":  # Pillow converts it to RGB only
        image = image.convert("RGB")
    return image.convert(mode)


def _orientation(exif: object) -> int:
    """Read by hand, since Pillow would read every entry, however many and large; 1 if there is none."""
    if not isinstance(exif, bytes):
        return 1
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    (first,) = struct.unpack(f"{order}L", exif[4:8].ljust(4, b"\0"))
    (n,) = struct.unpack(f"{order}H", exif[first : first + 2].ljust(2, b"\0"))
    for at in range(first + 2, min(first + 2 + 12 * n, len(exif) - 11), 12):
        tag, kind, _, value = struct.unpack(f"{order}HHLH", exif[at : at + 10])
        if (tag, kind) == (ORIENTATION, SHORT):
            return int(value)
    return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image of the mode "I", "I;16" or "F" in the mode "L", or "LA" if one of its levels is transparent."""
    values, info = np.asarray(image), image.info
    key = info.get("transparency")
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS):
        bits = tags.get(BITS, (16,))[0]  # TIFF has 12, too
        grey = _scaled(values.astype(np.int64), (1 << bits) - 1)
        if tags.get(MEANING) == WHITE_IS_ZERO:  # which Pillow heeds up to 8 bits
            grey = 255 - grey
    else:
        grey = _scaled(values, _white(values))
    shown = Image.fromarray(grey)
    if isinstance(key, int):
        shown.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return shown


def _scaled(values: NDArray[np.generic], white: int) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = np.floor(values.astype(np.float64) * 255 / white + 0.5).astype(np.uint8)
    return levels


def _white(values: NDArray[np.generic]) -> int:
    """The value that stands for white."""
    low, high = float(values.min()), float(values.max())
    whites = [white for white in (1, 255, 65535) if white > 1 or values.dtype.kind == "f"]
    for white in whites:
        if 0 <= low <= high <= white:
            return white
    raise ValueError(
        f"{values.dtype} values from {low:g} to {high:g}, which are no grey levels (0 to "
        f"{', '.join(f'{white:,}' for white in whites[:-1])} or {whites[-1]:,}); scale them"
    )
