"""Hostile images in a folder of class folders, and folders with entries that are not regular files."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hostile_case import EPS, FEW, GOOD, HOSTILE, JPEG, NONE, Case, encoded, put


def read_images(folder: Path) -> object:
    from metabox.tasks import ClassFolder

    return ClassFolder(str(folder / "set"), image_size=8, splits=(1.0, 0.0, 0.0), **FEW).images


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + b"".join(chunks)
    )


def tiff(width: int, height: int, n_tags: int = 0) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    tags += [(278, 4, 1, height), (279, 4, 1, 8)] + [(1000 + i, 1, 60_000, 8) for i in range(n_tags)]
    return (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(tags))
        + b"".join(struct.pack("<HHLL", *t) for t in tags)
        + bytes(65536)
    )


GIF, IDAT = b"GIF89a\x08\0\x08\0\0\0\0", chunk(b"IDAT", zlib.compress(bytes(9 * 8)))
MANY = 8 << 20
STRIPES = png(8, 8, chunk(b"IDAT", zlib.compress(b"\0\0\xff\0\xff\0\xff\0\xff" * 8)), chunk(b"IEND"))


def again(whole: bytes) -> bytes:
    """A progressive JPEG with its last scan repeated two thousand times."""
    return whole[:-2] + whole[whole.rfind(b"\xff\xda") : -2] * 2000 + whole[-2:]


IMAGES: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "eps": (lambda: EPS, NONE),
    "eps with a preview": (
        lambda: b"\xc5\xd0\xd3\xc6" + struct.pack("<IIIIIIH", 30, len(EPS), 0, 0, 0, 0, 0xFFFF) + EPS,
        NONE,
    ),
    "pdf": (lambda: b"%PDF-1.4\n1 0 obj<</Type/Catalog/OpenAction<</S/Launch/F(touch PWNED)>>>>endobj\n", NONE),
    "svg": (
        lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>x</script><image href="file:///etc/passwd"/></svg>',
        NONE,
    ),
    "entities": (lambda: b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><svg>&b;</svg>', NONE),
    **{
        kind: (lambda kind=kind: encoded(kind), NONE)
        for kind in ("pcx", "tga", "sgi", "ico", "icns", "im", "dds", "jpeg2000", "pdf")
    },
    "psd": (lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 60_000, 60_000, 8, 3), NONE),
    "fits": (lambda: b"SIMPLE  =                    T" + bytes(2000), NONE),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), NONE),
    "wmf": (lambda: b"\xd7\xcd\xc6\x9a\0\0" + bytes(100), NONE),
    "script": (lambda: b"#!/bin/sh\ntouch PWNED\n", NONE),
    "empty": (lambda: b"", NONE),
    "rubbish": (lambda: np.random.default_rng(0).bytes(4096), NONE),
    "png of many pixels": (lambda: png(60_000, 60_000, IDAT), "pixels"),
    "png of 2^31 pixels on a side": (lambda: png(2**31 - 1, 2**31 - 1, IDAT), "pixel"),
    "png that unpacks to much": (lambda: encoded("png", (9000, 9000), "L"), "9000 x 9000 pixels"),
    "png of no pixels": (lambda: png(0, 8, IDAT), "no pixels|no PNG"),
    "png cut off": (lambda: encoded("png", (200, 200))[:120], "truncated|no PNG"),
    "png with broken chunks": (lambda: png(8, 8, IDAT[:-2] + b"xx"), None),
    "png of chunks": (lambda: png(8, 8, chunk(b"prVt") * (MANY // 12)), "more than 50,000 pieces"),
    "png of empty data": (lambda: png(8, 8, chunk(b"IDAT") * (MANY // 12)), "more than 50,000 pieces"),
    "png with a text that unpacks to much": (
        lambda: png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(64 << 20))), IDAT, chunk(b"IEND")),
        "too large|no PNG|text",
    ),
    "png with a profile that unpacks to much": (
        lambda: png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(64 << 20))), IDAT, chunk(b"IEND")),
        None,
    ),
    "jpeg of many pixels": (lambda: JPEG.replace(b"\0\x08\0\x08\x03", b"\xff\0\xff\0\x03"), "pixels"),
    "jpeg cut off": (lambda: JPEG[: len(JPEG) - 20], "truncated|no PNG"),
    "jpeg of padding": (lambda: JPEG[:2] + b"\xff" * MANY + JPEG[2:], "more header"),
    "jpeg of junk": (lambda: JPEG[:2] + b"\xff\xd0" + b"\0" * MANY + JPEG[2:], "more header"),
    "jpeg of segments": (lambda: JPEG[:2] + b"\xff\xe3\0\2" * (MANY // 4) + JPEG[2:], "more than 50,000 pieces"),
    "jpeg of restarts": (lambda: JPEG[:2] + b"\xff\xd0" * (MANY // 2) + JPEG[2:], "more than 50,000 pieces"),
    "jpeg of exif": (
        lambda: (
            JPEG[:2]
            + (b"\xff\xe1" + struct.pack(">H", 60_000 + 8) + b"Exif\0\0" + tiff(8, 8, 4000)[:60_000]) * 20
            + JPEG[2:]
        ),
        None,
    ),
    "jpeg of scans": (
        lambda: again(encoded("jpeg", (4000, 4000), "L", progressive=True)),
        "scans of 4000 x 4000",
    ),
    "gif of many pixels": (
        lambda: b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\x08\0\x08\0\0\x02\x02\x44\x01\0;",
        "pixels",
    ),
    "gif with a frame of many pixels": (lambda: GIF + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x44\x01\0;", "pixel"),
    "gif of comments": (lambda: GIF + b"!\xfe" + (b"\xff" + b"x" * 255) * (60 << 10), "pieces"),
    "gif of blocks": (lambda: GIF + b"!\xff\1x\0" * (MANY // 5) + b";", "pieces|no image"),
    "gif without an image": (lambda: GIF + b";", "no image"),
    "bmp of many pixels": (
        lambda: b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 60_000, 60_000, 1, 24, *[0] * 6),
        "pixels",
    ),
    "bmp of runs": (
        lambda: (
            b"BM"
            + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 8000, 8000, 1, 8, 1, *[0] * 5)
            + b"\0\2\0\0" * (MANY // 4)
        ),
        "a compressed BMP",
    ),
    "bmp of a negative size": (
        lambda: b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, -8, -8, 1, 24, *[0] * 6),
        ".",
    ),
    "tiff of many pixels": (lambda: tiff(60_000, 60_000), "pixels"),
    "tiff of long sides": (lambda: tiff(2**31, 2**31), "."),
    "tiff of tags": (lambda: tiff(8, 8, 5000), None),
    "bigtiff": (lambda: b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + b"\xff" * 64, "BigTIFF"),
    "tiff that is its own next": (lambda: b"II*\0\x08\0\0\0\0\0\x08\0\0\0", NONE),
    "ppm of many pixels": (lambda: b"P6 60000 60000 255\n", "pixels"),
    "ppm in digits": (lambda: b"P3 3000 3000 255\n" + b"1 " * (1 << 20), "no binary PPM"),
    "ppm of odd depth": (lambda: b"P6 3000 3000 100\n" + bytes(27_000_000), "no binary PPM"),
    "ppm of comments": (lambda: b"P6 #" + b"x" * MANY + b"\n8 8 255\n", "no binary PPM"),
    "ppm of a long number": (lambda: b"P6 8 " + b"9" * MANY, "no binary PPM"),
    "webp of many pixels": (
        lambda: b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xfe\xff\0\xfe\xff\0" + bytes(8),
        "65279 x|no PNG|pixel|decoder",
    ),
    "avif of many pixels": (
        lambda: (lambda made: made.replace(made[made.find(b"ispe") + 8 :][:8], struct.pack(">II", 60_000, 60_000)))(
            encoded("avif", (64, 64))
        ),
        "pixels|no PNG|decode",
    ),
    "avif cut off": (lambda: encoded("avif", (64, 64))[:200], "."),
    "avif of boxes": (lambda: encoded("avif")[:32] + b"\0\0\0\x08meta" * (MANY // 8), "pieces"),
    "heic": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "HEIC .* install pillow-heif"),
    "webp cut off": (lambda: encoded("webp", (64, 64))[:40], "."),
}
for name, (content, says) in IMAGES.items():
    HOSTILE[f"image/{name}"] = Case(
        lambda folder, content=content: (
            put(folder / "set/a/0.png", encoded("png")),
            put(folder / "set/b/0.png", content()),
        ),
        read_images,
        says and f"readable images of one shape.*b/0.png \\(.*({says})",
    )
GOOD["image"] = Case(lambda folder: put(folder / "set/a/0.png", STRIPES), read_images)

# Folders with entries that are not regular files.


def odd(make: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: (put(folder / "set/a/0.png", encoded("png")), make(folder / "set/a"))


def bound(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket has at most 108 letters
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


def sparse(path: Path) -> None:
    put(path, b"\x89PNG\r\n\x1a\n")
    os.truncate(path, 1 << 40)


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (lambda a: os.mkfifo(a / "1.png"), r"a/1\.png \(a named pipe\)"),
    "socket": (lambda a: bound(a / "1.png"), r"a/1\.png \(a socket\)"),
    "device": (lambda a: (a / "1.png").symlink_to("/dev/zero"), r"a/1\.png \(a device\)"),
    "link to a pipe": (lambda a: (os.mkfifo(a.parents[1] / "p"), (a / "1.png").symlink_to("../../p")), "a named pipe"),
    "link to nowhere": (lambda a: (a / "1.png").symlink_to("gone"), "a link that leads nowhere"),
    "link to itself": (lambda a: (a / "1.png").symlink_to("1.png"), "a link that leads nowhere"),
    "link to a folder above": (lambda a: (a / "up").symlink_to(".."), "the same folder as"),
    "links in a circle": (lambda a: ((a / "b").mkdir(), (a / "b" / "c").symlink_to("../../a")), "the same folder as"),
    "name that is no text": (lambda a: put(Path(os.fsdecode(bytes(a) + b"/\xff.png")), b"x"), "not UTF-8"),
    "folder for a file": (lambda a: (a / "1.png").mkdir(), "."),
    "file of a terabyte": (lambda a: sparse(a / "1.png"), "at most 268,435,456 bytes"),
    "file of the kernel": (lambda a: (a / "1.png").symlink_to("/proc/self/mem"), "."),
}
for name, (make, says) in ODD.items():
    HOSTILE[f"folder/{name}"] = Case(odd(make), read_images, says)
