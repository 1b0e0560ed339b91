"""Files that a stranger could send: how each is made, how a user would open it, and what the refusal says.

    python tests/hostile.py                  # all of them, one line of JSON each
    python tests/hostile.py image/eps ...    # some of them

`HOSTILE` and `GOOD` are tables of `Case` by "kind/name". A case is made in an empty folder, and what it would run if it
could run anything makes PWNED there. Reading one ends in a ValueError that says `says`, or well if that is None.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import re
import socket
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PWNED = "PWNED"
SPLITS = ("train", "val", "test")
FEW: dict[str, Any] = {"n_way": 1, "n_shot": 1, "n_query": 1}


@dataclass(frozen=True)
class Case:
    """A file, or several that belong together."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    says: str | None = None


HOSTILE: dict[str, Case] = {}
GOOD: dict[str, Case] = {}


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def fake_ghostscript(folder: Path) -> Path:
    """A folder for the front of PATH with a `gs` that leaves PWNED, for machines without Ghostscript too."""
    path = folder / "bin" / "gs"
    put(path, f"#!/bin/sh\ntouch {folder / PWNED}\necho 10.0\n".encode())
    path.chmod(0o755)
    return path.parent


# Images, in a folder of class folders.


def read_images(folder: Path) -> object:
    from metabox.data import ClassFolder

    return ClassFolder(str(folder / "set"), image_size=8, splits=(1.0, 0.0, 0.0), **FEW).images


def encoded(kind: str, size: tuple[int, int] = (8, 8), mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind, **options)
    return stream.getvalue()


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


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    b"(PWNED) (w) file closefile (%pipe%touch PWNED) (w) file closefile\nshowpage\n%%EOF\n"
)
JPEG, GIF, IDAT = encoded("jpeg"), b"GIF89a\x08\0\x08\0\0\0\0", chunk(b"IDAT", zlib.compress(bytes(9 * 8)))
MANY = 8 << 20
NONE = "no PNG, JPEG"


def again(whole: bytes) -> bytes:
    """A progressive JPEG with its last scan two thousand times."""
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
GOOD["image"] = Case(lambda folder: put(folder / "set/a/0.png", encoded("png", (500, 500))), read_images)

# Folders with something in them that is no file.


def odd(make: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: (put(folder / "set/a/0.png", encoded("png")), make(folder / "set/a"))


def bound(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket has 108 letters at most
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

# Pickles and archives of arrays, in the layouts of published sets.


def read_pickles(folder: Path) -> object:
    from metabox.data import MiniImageNet

    return MiniImageNet(data_root=str(folder), **FEW).images


def read_arrays(folder: Path) -> object:
    from metabox.data import TieredImageNet

    return TieredImageNet(data_root=str(folder), **FEW).images


class Calls:
    """Pickled as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def caches(content: Callable[[Path], bytes]) -> Callable[[Path], object]:
    return lambda folder: [
        put(folder / f"mini-imagenet/mini-imagenet-cache-{split}.pkl", content(folder)) for split in SPLITS
    ]


NEW = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tC\1btR"


def dtype(code: bytes) -> bytes:
    return b"cnumpy\ndtype\n(X\2\0\0\0" + code + b"K\0K\1tR(K\3X\1\0\0\0<NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\0tb"


def filled(shape: bytes, code: bytes, content: bytes) -> bytes:
    """Opcodes that fill the array on the stack, with the content that other opcodes push."""
    return b"(K\1" + shape + dtype(code) + b"\x89" + content + b"tb"


def new_array(shape: bytes, code: bytes, content: bytes) -> bytes:
    return NEW + filled(shape, code, content)


def nested(depth: int, width: int) -> list[Any]:
    found: list[Any] = [0] * width
    for _ in range(depth):
        found = [found] * width
    return found


def cache_of(images: object, **more: object) -> bytes:
    return pickle.dumps({"image_data": images, "class_dict": {"a": [0]}} | more, 4)


PIXELS = np.zeros((1, 84, 84, 3), np.uint8)
MINUS = b"J\xff\xff\xff\xff", b"J\xfe\xff\xff\xff"  # -1 and -2 have the same hash
COLLIDE = range(2**61 - 1, 60_000 * (2**61 - 1), 2**61 - 1)
WRONG = "expected a pickle of arrays and plain containers.*"
PICKLES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "command": (lambda f: cache_of(Calls(os.system, f"touch {f / PWNED}")), WRONG + "asks for"),
    "eval": (lambda f: cache_of(Calls(eval, f"open({str(f / PWNED)!r}, 'w')")), WRONG + "asks for"),
    "mkdir": (lambda f: cache_of(Calls(os.mkdir, str(f / PWNED))), WRONG + "asks for"),
    "protocol 0": (lambda f: b"cposix\nsystem\n(S'touch " + bytes(f / PWNED) + b"'\ntR.", WRONG + "asks for"),
    "instance": (lambda f: b"(S'touch " + bytes(f / PWNED) + b"'\niposix\nsystem\n.", WRONG),
    "persistent": (lambda f: b"P1\n.", WRONG),
    "extension": (lambda f: b"\x80\x02\x82\x01.", WRONG),
    "list shorter than its shape": (
        lambda f: b"\x80\x03" + new_array(b"(M\xff\x7ft", b"O8", b"(K\1K\2l") + b".",
        WRONG + "content of another length",
    ),
    "bytes shorter than their shape": (lambda f: b"\x80\x03" + new_array(b"(M\xff\x7ft", b"u1", b"C\1x") + b".", WRONG),
    "objects as bytes": (lambda f: b"\x80\x03" + new_array(b"(K\1t", b"O8", b"C\x08abcdefgh") + b".", WRONG),
    "array filled twice": (
        lambda f: b"\x80\x03" + new_array(b"(K\2t", b"u1", b"C\2ab") + filled(b"(K\2t", b"u1", b"C\2ab") + b".",
        WRONG + "fills an array twice",
    ),
    "view of an array": (
        lambda f: (
            b"\x80\x03cnumpy.core.numeric\n_frombuffer\n("
            + new_array(b"(K\2t", b"u1", b"C\2ab")
            + dtype(b"u1")
            + b"(K\2tX\1\0\0\0CtR."
        ),
        WRONG + "content of another length",
    ),
    "entries of no size": (lambda f: b"\x80\x03" + new_array(b"(J\xff\xff\xff\x7ft", b"S0", b"C\0") + b".", WRONG),
    "shape below zero": (lambda f: b"\x80\x03" + new_array(b"(J\xff\xff\xff\xfft", b"u1", b"C\0") + b".", WRONG),
    "place 2^31 of the memo": (lambda f: b"\x80\x02Nr\xff\xff\xff\x7f.", "."),
    "bytes of 2^40": (lambda f: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.", WRONG),
    "bytearray of 2^36": (lambda f: b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b"x.", WRONG),
    "frame of 2^40": (lambda f: b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.", "."),
    "copies": (
        lambda f: b"\x80\x03C\xff" + b"x" * 255 + b"q\0(" + new_array(b"(K\xfft", b"u1", b"h\0") * 3000 + b"l.",
        ".",
    ),
    "long copies": (
        lambda f: (
            b"\x80\x03B\0\0\x10\0"
            + b"x" * (1 << 20)
            + b"q\0("
            + new_array(b"(J\0\0\x10\0t", b"u1", b"h\0") * 3000
            + b"l."
        ),
        WRONG + "unpacks to more than it holds",
    ),
    "keys that collide": (
        lambda f: b"\x80\x02}(" + b"".join(pickle.dumps(k, 2)[2:-1] + b"N" for k in COLLIDE) + b"u.",
        WRONG + "key of type int",
    ),
    "memo places that collide": (
        lambda f: b"N" + b"".join(b"p%d\n" % k for k in COLLIDE) + b".",
        WRONG + "key of type int",
    ),
    "tuples that collide": (
        lambda f: (
            b"\x80\x02}("
            + b"".join(b"(" + b"".join(MINUS[i >> b & 1] for b in range(16)) + b"tN" for i in range(1 << 16))
            + b"u."
        ),
        WRONG + "key of type tuple",
    ),
    "lists in lists in lists": (lambda f: b"\x80\x04" + b"]" * 500_000 + b"a" * 499_999 + b".", "."),
    "images of shared lists": (lambda f: cache_of(nested(9, 10)), "."),
    "labels of shared lists": (
        lambda f: pickle.dumps({"image_data": PIXELS, "labels": nested(9, 10)}, 4),
        "expected whole numbers in one row",
    ),
    "classes of shared lists": (
        lambda f: cache_of(PIXELS, class_dict={"a": nested(9, 10)}),
        "whole numbers in one row",
    ),
    "rows that are not there": (lambda f: cache_of(PIXELS, class_dict={"a": [0, 1 << 70]}), "numbers from 0 to 0"),
    "labels of text": (lambda f: pickle.dumps({"image_data": PIXELS, "labels": "a"}, 4), "whole numbers in one row"),
    "images of no pixels": (lambda f: cache_of(PIXELS[:, :0]), "no pixels"),
    "images of floats": (lambda f: cache_of(np.full((1, 84, 84, 3), np.nan)), "instead of uint8"),
    "images of numbers": (lambda f: cache_of([1, 2]), "images in a list|instead of an array"),
    "images of postscript": (lambda f: cache_of([np.frombuffer(EPS, np.uint8)]), NONE),
    "nothing known": (lambda f: pickle.dumps({"a": 1}, 4), "image_data or data or images"),
    "cut off": (lambda f: cache_of(PIXELS)[:100], WRONG),
    "records": (lambda f: cache_of(np.zeros(2, [("a", "i4"), ("b", "O")])), WRONG),
    "text": (lambda f: b"hello", WRONG),
}
for name, (content_of, says) in PICKLES.items():
    HOSTILE[f"pickle/{name}"] = Case(caches(content_of), read_pickles, says)
HOSTILE["pickle/pipe"] = Case(
    lambda folder: (caches(lambda f: b"N.")(folder), (folder / "mini-imagenet/mini-imagenet-cache-val.pkl").unlink(),
                    os.mkfifo(folder / "mini-imagenet/mini-imagenet-cache-val.pkl")),
    read_pickles,
    "expected mini-imagenet-cache-val.pkl",
)  # fmt: skip
GOOD["pickle"] = Case(
    caches(lambda f: cache_of(np.zeros((200, 84, 84, 3), np.uint8))), read_pickles, "miniImageNet with"
)


def npy(array: np.ndarray[Any, Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return stream.getvalue()


def declared(shape: object, code: str = "|u1", content: bytes = b"x") -> bytes:
    head = f"{{'descr': {code!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + content


def objects(folder: Path) -> bytes:
    return npy(np.array([Calls(os.mkdir, str(folder / PWNED))], dtype=object), allow_pickle=True)


ARRAYS: dict[str, Callable[[Path], bytes]] = {
    "objects": objects,
    "more than it holds": lambda f: declared((1 << 40,)),
    "shape of 2^70": lambda f: declared((1 << 35, 1 << 35)),
    "shape below zero": lambda f: declared((-1,)),
    "shape of no numbers": lambda f: declared("('a',)"),
    "deep header": lambda f: b"\x93NUMPY\2\0" + struct.pack("<I", 90_000) + b"(" * 90_000,
    "records": lambda f: npy(np.zeros(2, [("a", "i4"), ("b", "f8")])),
    "cut off": lambda f: npy(PIXELS)[:200],
    "no header": lambda f: b"\x93NUMPY",
    "empty": lambda f: b"",
    "rubbish": lambda f: b"hello",
}
for name, content_of in ARRAYS.items():
    HOSTILE[f"npz/{name}"] = Case(
        lambda folder, content_of=content_of: [
            put(folder / f"tiered-imagenet/{split}_images.npz", zipped(("images.npy", content_of(folder))))
            or put(folder / f"tiered-imagenet/{split}_labels.pkl", pickle.dumps({"labels": [0]}, 4))
            for split in SPLITS
        ],
        read_arrays,
        "expected arrays? ",
    )
ARCHIVES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "no archive": (lambda f: b"hello", "a zip archive"),
    "cut off": (lambda f: zipped(("images.npy", npy(PIXELS)))[:-30], "a zip archive"),
    "damaged": (
        lambda f: zipped(("images.npy", npy(PIXELS))).replace(b"images.npy", b"images.npx", 1),
        "damaged archive",
    ),
    "unpacks to much": (
        lambda f: zipped(("images.npy", npy(np.zeros(80 << 20, np.uint8)))),
        "expands more than 100 times",
    ),
    "other compression": (
        lambda f: zipped(("images.npy", npy(PIXELS)), method=zipfile.ZIP_LZMA),
        "not packed by deflate",
    ),
}
for name, (content_of, says) in ARCHIVES.items():
    HOSTILE[f"npz/{name}"] = Case(
        lambda folder, content_of=content_of: [
            put(folder / f"tiered-imagenet/{split}_images.npz", content_of(folder))
            or put(folder / f"tiered-imagenet/{split}_labels.pkl", pickle.dumps({"labels": [0]}, 4))
            for split in SPLITS
        ],
        read_arrays,
        says,
    )


def rooms(label: Callable[[Path], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        for part in ("train", "val"):
            for kind, shape in (("image", (6, 8, 3)), ("label", (6, 8)), ("depth", (6, 8, 1)), ("normal", (6, 8, 3))):
                put(folder / f"nyuv2/{part}/{kind}/0.npy", npy(np.zeros(shape)))
        (folder / "nyuv2/train/label/0.npy").unlink()
        label(folder / "nyuv2/train/label/0.npy")

    return make


def read_rooms(folder: Path) -> object:
    from metabox.data import NYUv2

    return NYUv2(data_root=str(folder)).spec


for name, content_of in ARRAYS.items():
    HOSTILE[f"npy/{name}"] = Case(
        rooms(lambda path, content_of=content_of: put(path, content_of(path.parents[3]))), read_rooms, "expected "
    )
HOSTILE["npy/pipe"] = Case(rooms(os.mkfifo), read_rooms, "a named pipe")
HOSTILE["npy/not a number"] = Case(
    rooms(lambda path: put(path, npy(np.full((6, 8), np.nan)))), read_rooms, "infinity or NaN"
)
GOOD["npy"] = Case(rooms(lambda path: put(path, npy(np.zeros((6, 8))))), read_rooms)

# Zip archives of images, in the layout of CIFAR-FS.


def read_archive(folder: Path) -> object:
    from metabox.data import CIFARFS

    return CIFARFS(data_root=str(folder), **FEW).images


def renamed(name: bytes) -> bytes:
    return zipped(("cifar100/data/a/0.png", b"x")).replace(b"cifar100/data/a/0.png", name.ljust(21, b"x"))


def huge() -> bytes:
    """An entry that says it has 4 GB, in the archive's directory and before its content."""
    whole = zipped(("cifar100/data/a/0.png", encoded("png")), method=zipfile.ZIP_STORED)
    return whole.replace(struct.pack("<I", len(encoded("png"))), b"\xf0\xff\xff\xff")


def overlapping() -> bytes:
    """Many names for one content, as in Fifield 2019 ("A better zip bomb")."""
    whole = zipped(*((f"cifar100/data/a/{i}.png", bytes(1 << 20)) for i in range(3)))
    at = [found.start() for found in re.finditer(b"PK\1\2", whole)]
    for start in at[1:]:  # each entry's offset is that of the first
        whole = whole[: start + 42] + whole[at[0] + 42 : at[0] + 46] + whole[start + 46 :]
    return whole


def encrypted() -> bytes:
    whole = bytearray(zipped(("cifar100/data/a/0.png", b"x")))
    whole[6] |= 1
    whole[whole.index(b"PK\1\2") + 8] |= 1
    return bytes(whole)


IMAGE = "cifar100/data/a/0.png"
ZIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "name above": (lambda: renamed(b"../../../../tmp/PWNED"), "leads elsewhere"),
    "name from the root": (lambda: renamed(b"/tmp/PWNED"), "leads elsewhere"),
    "name of another system": (lambda: renamed(b"..\\..\\PWNED"), "leads elsewhere"),
    "name twice": (lambda: renamed(b"a/0.png") + b"", "CIFAR-FS with|none"),
    "huge": (huge, "."),
    "entry that unpacks to much": (lambda: zipped((IMAGE, bytes(300 << 20))), "more than 268,435,456 bytes"),
    "overlapping": (overlapping, "entries that overlap"),
    "encrypted": (encrypted, "an encrypted entry"),
    "other compression": (lambda: zipped((IMAGE, b"x"), method=zipfile.ZIP_BZIP2), "not packed by deflate"),
    "postscript": (lambda: zipped((IMAGE, EPS)), NONE),
    "many names": (lambda: zipped(*((f"cifar100/data/a/{i}", b"") for i in range(70_000))), "."),
    "cut off": (lambda: zipped((IMAGE, encoded("png")))[:-10], "a zip archive"),
    "rubbish": (lambda: b"PK\3\4" + bytes(100), "a zip archive"),
    "empty": (lambda: b"", "a zip archive"),
}
for name, (content, says) in ZIPS.items():
    HOSTILE[f"zip/{name}"] = Case(
        lambda folder, content=content: put(folder / "cifar-fs/cifar100.zip", content()), read_archive, says
    )
GOOD["zip"] = Case(
    lambda folder: put(folder / "cifar-fs/cifar100.zip", zipped((IMAGE, encoded("png")))), read_archive, "CIFAR-FS with"
)

# Mail.


def read_mail_folder(folder: Path) -> object:
    from metabox.data import MailFolder

    return MailFolder(str(folder / "mail"), features=16).spec


MAIL_HTML, MOST = b"Subject: x\nContent-Type: text/html\n\n", 12 << 20
MAILS: dict[str, tuple[Callable[[], bytes], str | None]] = {
    **{
        f"page of {piece.decode()}": (lambda piece=piece: MAIL_HTML + piece * (MOST // len(piece)), None)
        for piece in (b"<!--", b"</a ", b"<a b='", b"<![", b"<script>", b"<style", b"<template>", b"&#", b"<", b"<?")
    },
    "number of many digits": (lambda: MAIL_HTML + b"&#" + b"9" * MOST, None),
    "subject of encoded words": (lambda: b"Subject: " + b"=?utf-8?b?YnV5?= " * 100_000 + b"\n\nx", None),
    "subject of encoded lines": (lambda: b"Subject: " + b"=?utf-8?b?YnV5?=\n " * 100_000 + b"\n\nx", None),
    "options": (lambda: b"Content-Type: multipart/mixed" + b";" * MOST + b"\n\nx", None),
    "options of every part": (
        lambda: (
            b"Content-Type: multipart/mixed; boundary=b\n\n"
            + (b'--b\nContent-Type: multipart/x; "' + b";" * 20_000 + b"\n\nx\n") * 300
        ),
        None,
    ),
    "numbered options": (
        lambda: b"Content-Type: text/plain" + b"".join(b";a*%d=x" % i for i in range(100_000)) + b"\n\nx",
        None,
    ),
    "lines": (lambda: b"Subject: x\n\n" + b"\n" * MOST, "more than mail has"),
    "headers": (lambda: b"a:b\n" * (MOST // 4) + b"\nx", "more than mail has"),
    "blocks of a report": (lambda: b"Content-Type: message/delivery-status\n\n" + b"\n" * 99_000, "1000 parts"),
    "nested parts": (
        lambda: b"".join(b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (i, i) for i in range(5000)),
        "1000 parts",
    ),
    "lines in nested parts": (
        lambda: (
            b"".join(b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (i, i) for i in range(500))
            + b"\n" * 400_000
        ),
        "more than mail has",
    ),
    "mail in mail": (lambda: b"Content-Type: message/rfc822\n\n" * 5000, "1000 parts"),
    "punycode": (lambda: b"Content-Type: text/plain; charset=punycode\n\na-" + b"z" * MOST, None),
    "much": (lambda: b"Subject: x\n\n" + b"x" * (30 << 20), "more than 25 MiB"),
    "no mail": (lambda: b"\x7fELF" + bytes(100), "no mail"),
}
for name, (content, says) in MAILS.items():
    HOSTILE[f"mail/{name}"] = Case(
        lambda folder, content=content: (
            put(folder / "mail/ann/ham/0.eml", b"Subject: x\n\ny"),
            put(folder / "mail/ann/spam/0.eml", content()),
        ),
        read_mail_folder,
        says and f"expected mail in .*{says}",
    )
HOSTILE["mail/pipe"] = Case(
    lambda folder: (put(folder / "mail/ann/ham/0.eml", b"Subject: x\n\ny"), os.mkfifo(folder / "mail/ann/ham/1.eml")),
    read_mail_folder,
    "a named pipe",
)
GOOD["mail"] = Case(
    lambda folder: put(folder / "mail/ann/ham/0.eml", b"Subject: x\n\n" + b"buy " * 999), read_mail_folder
)

# Lists and tables, and graphs.


def read_census(folder: Path) -> object:
    from metabox.data import CensusIncome

    return CensusIncome(data_root=str(folder)).spec


def read_birds(folder: Path) -> object:
    from metabox.data import CUB

    return CUB(data_root=str(folder), **FEW).images


def read_splits(folder: Path) -> object:
    from metabox.data import ClassFolder

    return ClassFolder(str(folder / "set"), splits=str(folder / "splits.json"), **FEW).images


def read_graphs(folder: Path) -> object:
    from metabox.export import load_exported

    return load_exported(folder)


def person(**values: str) -> list[str]:
    from metabox.data.census import COLUMNS

    return [
        {"income": "- 50000.", "age": "1"}.get(name, "0") if name not in values else values[name] for name in COLUMNS
    ]


def census(*rows: list[str]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        stream = io.StringIO()
        csv.writer(stream).writerows(rows)
        for part in ("data", "test"):
            put(folder / f"census-income/census-income.{part}", stream.getvalue().encode())

    return make


def lists(**names: bytes) -> Callable[[Path], object]:
    given = {"images": b"1 a/0.png", "classes": b"1 a", "image_class_labels": b"1 1"} | names
    return lambda folder: (
        put(folder / "cub/images/a/0.png", encoded("png")),
        [put(folder / f"cub/{name}.txt", content) for name, content in given.items()],
    )


def tables(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (
        put(folder / "mini-imagenet/images/a.jpg", JPEG),
        [put(folder / f"mini-imagenet/{split}.csv", content) for split in SPLITS],
    )


def splits(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (put(folder / "set/a/0.png", encoded("png")), put(folder / "splits.json", content))


def pipe_for(make: Callable[[Path], object], name: str) -> Callable[[Path], object]:
    return lambda folder: (make(folder), (folder / name).unlink(), os.mkfifo(folder / name))


TEXTS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object], str]] = {
    "census not a number": (lambda f: census(person(age="nan"))(f), read_census, "numbers in the column age"),
    "census of long values": (lambda f: census(person(race="x" * 5000))(f), read_census, "at most 100 letters"),
    "census of many values": (
        lambda f: census(*(person(race=str(i)) for i in range(2000)))(f), read_census, "at most 1000 different values",
    ),
    "census of one field": (
        lambda f: [put(f / f"census-income/census-income.{part}", b'"' + b"x" * 200_000) for part in ("data", "test")],
        read_census, "expected CSV in",
    ),
    "birds that are not text": (lists(classes=b"1 \xff"), read_birds, "text in UTF-8"),
    "birds without a class": (lists(image_class_labels=b"1 7"), read_birds, "that belong together"),
    "birds of odd lists": (lists(images=b"1"), read_birds, "that belong together"),
    "birds of a pipe": (pipe_for(lists(), "cub/classes.txt"), read_birds, "a named pipe"),
    "birds from elsewhere": (lists(images=b"1 ../../../../../../../etc/passwd"), read_birds, "no PNG|CUB with"),
    "table of nothing": (tables(b""), read_pickles, "columns filename and label"),
    "table with NUL": (tables(b"filename,label\na.jpg,\0b\n"), read_pickles, "."),
    "table not in UTF-8": (tables(b"filename,label\n\xff.jpg,b\n"), read_pickles, "expected CSV"),
    "table of short rows": (tables(b"filename,label\na.jpg\n"), read_pickles, "expected 2 columns"),
    "table of one field": (tables(b"filename,label\n" + b'"' + b"x" * 200_000), read_pickles, "expected CSV"),
    "table of files elsewhere": (tables(b"filename,label\n/etc/passwd,b\n"), read_pickles, "no PNG|miniImageNet with"),
    "splits in lists in lists": (splits(b"[" * 200_000), read_splits, "expected JSON"),
    "splits of a long number": (splits(b"9" * 100_000), read_splits, "expected"),
    "splits not in UTF-8": (splits(b"\xff"), read_splits, "expected JSON"),
    "splits of a pipe": (pipe_for(splits(b""), "splits.json"), read_splits, "which is not a file"),
    "splits of numbers": (splits(b'{"train": [1]}'), read_splits, "something else"),
}  # fmt: skip
for name, (make, read, says) in TEXTS.items():
    HOSTILE[f"text/{name}"] = Case(make, read, says)
GOOD["text"] = Case(splits(b'{"train": ["a"]}'), read_splits)

HOSTILE["graph/pickle"] = Case(
    lambda folder: [
        put(folder / name, zipped(("a/data.pkl", pickle.dumps(Calls(os.mkdir, str(folder / PWNED)), 2))))
        for name in ("adapt.pt2", "predict.pt2")
    ],
    read_graphs,
    "expected trusted=True",
)


def attempt(case: Case) -> dict[str, object]:
    """Make a case in a folder of its own and read it: what came of it, and the seconds of this process."""
    with tempfile.TemporaryDirectory() as name:
        folder, here = Path(name), Path.cwd()
        case.make(folder)
        os.chdir(folder)
        os.environ["METABOX_CACHE"] = str(folder / "cache")
        start, message = time.process_time(), None
        try:
            case.read(folder)
            outcome = "read"
        except ValueError as error:
            outcome, message = "refused", str(error)
        except Exception as error:
            outcome, message = "raised", f"{type(error).__name__}: {error}"
        seconds = time.process_time() - start
        os.chdir(here)
        if list(folder.rglob(PWNED)) or Path("/tmp", PWNED).exists():
            outcome = "executed"
    return {"outcome": outcome, "seconds": round(seconds, 2), "message": message}


if __name__ == "__main__":
    for chosen in sys.argv[1:] or [*HOSTILE, *GOOD]:
        print(json.dumps({"name": chosen} | attempt((HOSTILE | GOOD)[chosen])), flush=True)
