"""Decodes all images: a fixed list of formats, and bounds on the memory and time that a file may cost.

By default Pillow trusts the content of a file: PostScript named as a PNG starts Ghostscript. Its parsers of headers are
written in Python, and some take minutes for a file that is all header. So the parts of a header are counted here first.
"""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from metabox.data.viewing import as_shown

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM")
SUFFIXES = frozenset(
    [
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
        *(".heic", ".heif"),  # named here to be refused with a way to mend it
    ]
)
MOST_BYTES = 256 << 20  # of a file
MOST_PIXELS = 1 << 26
LONGEST = 1 << 16  # side
MOST_PIECES = 50_000  # chunks, segments, blocks
MOST_HEADER = 16 << 20  # bytes of a JPEG before its pixels
MOST_PADDING = 1 << 12
MOST_SCANNED = 1 << 30  # pixels times scans of a progressive JPEG: each scan covers all pixels

_quiet = threading.Lock()  # catching warnings is for one thread at a time

_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
PPM = re.compile(
    rb"(?:P4|P[56](?=" + _GAP + rb"\d+" + _GAP + rb"\d+" + _GAP + rb"(?:255|65535)\s))" + _GAP + rb"\d{1,9}"
)


SEVERAL = "several"
"""Key of `Image.info`, in images that are the first of several in their file."""


def open_image(content: bytes, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """The image in a file of these bytes as a viewer shows it (see `as_shown`); the first one if there are several.

    Raises:
        ValueError: if it is damaged, in none of the formats, or larger than 65,536 pixels on a side or
            `most_pixels` in all, or if its values have no scale of grey levels.
    """
    try:
        _check_pieces(content)
        if content[4:8] == b"ftyp":
            content = _without_exif(content)
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of each odd entry of EXIF data
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            _check_size(*image.size, most_pixels)  # before it is decoded
            scans = content.count(b"\xff\xda") if content.startswith(b"\xff\xd8") else 1
            if scans * image.width * image.height > MOST_SCANNED:
                raise ValueError(f"{scans} scans of {image.width} x {image.height} pixels")
            image.load()
        _check_size(*image.size, most_pixels)  # a frame may be larger than the header says
        several = _has_several(image, content)
        shown = as_shown(image)
    except Image.DecompressionBombError as error:  # Pillow's own limit, which is higher
        raise ValueError(f"more than {MOST_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, or a damaged one") from error
    except Exception as error:  # decoders raise all kinds of exceptions
        raise ValueError(str(error) or type(error).__name__) from error
    if several:
        shown.info[SEVERAL] = True
    return shown


def image_of(pixels: NDArray[Any]) -> Image.Image:
    """The image of an array, uint8 `[height, width]` or `[height, width, channels]`.

    Raises:
        ValueError: if the array has another shape or type, or is larger than `open_image` takes.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(f"{pixels.dtype} {list(pixels.shape)} instead of uint8 [height, width, 1, 3 or 4]")
    _check_size(pixels.shape[1], pixels.shape[0])
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _check_size(width: int, height: int, most_pixels: int = MOST_PIXELS) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"no pixels: {width} x {height}")
    if max(width, height) > LONGEST or width * height > most_pixels:
        raise ValueError(f"{width} x {height} pixels, more than {most_pixels:,} in all or {LONGEST:,} on a side")


def _has_several(image: Image.Image, content: bytes) -> bool:
    """Whether the file has more frames or pages; the second picture of a photograph is a preview."""
    if image.format == "GIF":  # Pillow would parse the next frame, whatever that takes
        return _gif_goes_on(content)
    return image.format != "MPO" and bool(getattr(image, "is_animated", False))


def _gif_goes_on(content: bytes) -> bool:
    """Whether another frame follows the first; False if the first has too many blocks to tell quickly."""
    *_, at = _gif(content)
    table = content[at + 9]
    at += 11 + (3 << (table & 7) + 1 if table & 0x80 else 0)
    for _ in range(MOST_PIECES):
        if not (size := content[at] if at < len(content) else 0):
            break
        at += 1 + size
    return content[at + 1 : at + 2] == b"," or content[at + 1 : at + 3] == b"!\xf9"


def _check_pieces(content: bytes) -> None:
    """Raise if a file has too many parts to parse quickly."""
    if content[4:8] == b"ftyp":
        _check_boxes(content)
    for magic, pieces in WALKS.items():
        if content.startswith(magic):
            for count, _ in enumerate(pieces(content)):
                if count == MOST_PIECES:
                    raise ValueError(f"more than {MOST_PIECES:,} pieces")


def _check_boxes(content: bytes) -> None:
    """Raise unless the file of an iPhone or a browser is AVIF."""
    brands = {content[8:12], *(content[i : i + 4] for i in range(16, min(int.from_bytes(content[:4], "big"), 256), 4))}
    if not brands & {b"avif", b"avis"} and brands & {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1"}:
        raise ValueError("a HEIC photograph; install pillow-heif (pip install pillow-heif) and convert it to JPEG")


def _without_exif(content: bytes) -> bytes:
    """An AVIF file whose EXIF data are not found: Pillow would read every entry, and viewers do not turn by them."""
    changed, at = bytearray(content), 0
    for _ in range(MOST_PIECES):
        if at + 8 > len(content):
            return bytes(changed)
        size, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(content[at + 8 : at + 16], "big")
        end = at + size if size else len(content)
        if kind in (b"meta", b"moov"):
            changed[at:end] = changed[at:end].replace(b"Exif", b"skip")
        at = max(end, at + 8)
    raise ValueError(f"more than {MOST_PIECES:,} pieces")


def _png(content: bytes) -> Iterator[int]:
    at = 8
    while at + 8 <= len(content):
        yield at
        at += 12 + int.from_bytes(content[at : at + 4], "big")


def _jpeg(content: bytes) -> Iterator[int]:
    """The segments before the pixels."""
    at, padding = 2, 0
    while at + 4 <= len(content):
        marker = content.find(b"\xff", at, at + MOST_PADDING)
        while marker >= 0 and content[marker + 1 : marker + 2] in (b"\xff", b"\0"):
            marker += 1 if content[marker + 1] else 2
            padding += 1
            if padding > MOST_PADDING:
                break
        padding += max(marker - at, 0)
        if marker < 0 or padding > MOST_PADDING or at > MOST_HEADER:
            raise ValueError("more header than any photograph has")
        yield marker
        kind = content[marker + 1 : marker + 2]
        if kind == b"\xda":
            return
        alone = b"\xd0" <= kind <= b"\xd9" or kind == b"\x01"
        at = marker + 2 + (0 if alone else max(2, int.from_bytes(content[marker + 2 : marker + 4], "big")))


def _gif(content: bytes) -> Iterator[int]:
    """The blocks before the first image, and where that begins."""
    table = content[10:11]
    at = 13 + (3 << (table[0] & 7) + 1 if table and table[0] & 0x80 else 0)
    while content[at : at + 1] == b"!":
        at += 2
        while size := content[at] if at < len(content) else 0:
            yield at
            at += 1 + size
        yield at
        at += 1
    if content[at : at + 1] != b",":
        raise ValueError("no image after its header")
    yield at


def _tiff(content: bytes) -> Iterator[int]:
    order = "<" if content[:1] == b"I" else ">"
    if struct.unpack(f"{order}H", content[2:4]) == (43,):
        raise ValueError("a BigTIFF")
    yield 0


def _bmp(content: bytes) -> Iterator[int]:
    if content[14:18] >= b"\x28\0\0\0" and content[30:34] in (b"\1\0\0\0", b"\2\0\0\0"):
        raise ValueError("a compressed BMP")  # Pillow decodes it in Python, byte by byte
    yield 0


def _ppm(content: bytes) -> Iterator[int]:
    if not PPM.match(content[:MOST_PADDING]):  # Pillow decodes the others in Python, byte by byte
        raise ValueError("no binary PPM, PGM or PBM of 8 or 16 bits")
    yield 0


WALKS: dict[bytes, Callable[[bytes], Iterator[int]]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8": _jpeg,
    b"GIF8": _gif,
    b"II": _tiff,
    b"MM": _tiff,
    b"BM": _bmp,
    b"P": _ppm,
}
