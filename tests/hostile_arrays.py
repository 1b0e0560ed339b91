"""Hostile pickles and archives, in the layouts of published sets."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile_case import EPS, FEW, GOOD, HOSTILE, NONE, PWNED, SPLITS, Calls, Case, encoded, put, zipped


def read_pickles(folder: Path) -> object:
    from metabox.tasks import MiniImageNet

    return MiniImageNet(data_root=str(folder), **FEW).images


def read_arrays(folder: Path) -> object:
    from metabox.tasks import TieredImageNet

    return TieredImageNet(data_root=str(folder), **FEW).images


def caches(content: Callable[[Path], bytes]) -> Callable[[Path], object]:
    return lambda folder: [
        put(folder / f"mini-imagenet/mini-imagenet-cache-{split}.pkl", content(folder)) for split in SPLITS
    ]


NEW = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tC\1btR"


def dtype(code: bytes) -> bytes:
    return b"cnumpy\ndtype\n(X\2\0\0\0" + code + b"K\0K\1tR(K\3X\1\0\0\0<NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\0tb"


def filled(shape: bytes, code: bytes, content: bytes) -> bytes:
    """Opcodes that fill the array on the stack with the content that other opcodes push."""
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
    from metabox.tasks import NYUv2

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
    from metabox.tasks import CIFARFS

    return CIFARFS(data_root=str(folder), **FEW).images


def renamed(name: bytes) -> bytes:
    return zipped(("cifar100/data/a/0.png", b"x")).replace(b"cifar100/data/a/0.png", name.ljust(21, b"x"))


def huge() -> bytes:
    """An entry that claims 4 GB, in the archive's directory and in its own header."""
    whole = zipped(("cifar100/data/a/0.png", encoded("png")), method=zipfile.ZIP_STORED)
    return whole.replace(struct.pack("<I", len(encoded("png"))), b"\xf0\xff\xff\xff")


def overlapping() -> bytes:
    """Several names for the same bytes, as in Fifield 2019 ("A better zip bomb")."""
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
