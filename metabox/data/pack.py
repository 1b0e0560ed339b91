"""Packs: all images of a set in one memory-mapped file, made at its first use.

A pack is a safetensors file: `images` uint8 `[n, channels, height, width]` sorted by class, `start`
int64 `[n_classes + 1]`, `groups` int64 `[n_classes]` (or empty), and JSON about them. It is keyed by
what is cheap to know of the source (names, sizes, times, options), and carries a fingerprint of the
content that is the same however the source was packaged. It is written image by image, for a set may be
larger than the memory, and whole or not at all; a checksum shows when it has been damaged since.
"""

from __future__ import annotations

import json
import logging
import math
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from metabox.data.root import Files, cache_folder
from metabox.files import write_whole

FORMAT = 2
SHOWN = 10  # names in one error message
CHECKED = 4 << 30  # bytes of images that the checksum covers: reading more at every start would take long

log = logging.getLogger(__name__)

Decode = Callable[[Image.Image], NDArray[np.uint8]]


@dataclass(frozen=True)
class ClassFiles:
    """The images of one class: names in a tree of files."""

    name: str
    group: str | None
    files: Files
    images: Sequence[str]


@dataclass(frozen=True, eq=False)
class Pack:
    """An open pack, and its copies on devices.

    images: uint8 `[n, channels, height, width]`, sorted by class
    start: class c is the images `start[c] ... start[c + 1] - 1`, int64 `[n_classes + 1]`
    groups: the group of each class, int64 `[n_classes]`, or None
    """

    images: Tensor
    start: NDArray[np.int64]
    groups: NDArray[np.int64] | None
    class_names: list[str]
    group_names: list[str]
    fingerprint: str
    copies: dict[tuple[torch.device, bool], Tensor] = field(default_factory=dict, repr=False)

    def pixels(self, device: torch.device, turned: bool = False) -> Tensor:
        """The images as rows `[n, pixels]` on the device, copied there once for all who ask.

        With `turned`, n more rows follow: the images turned by 90 degrees counter-clockwise.
        """
        if (device, turned) not in self.copies:
            images = self.images.to(device)
            if turned:
                images = torch.cat([images, torch.rot90(images, 1, (2, 3))])
            self.copies[device, turned] = images.flatten(1)
        return self.copies[device, turned]


_open: weakref.WeakValueDictionary[Path, Pack] = weakref.WeakValueDictionary()


def open_pack(
    name: str,
    key: object,
    classes: Callable[[], list[ClassFiles]],
    decode: Decode,
    cache: str | None = None,
    check: Callable[[list[ClassFiles]], list[str]] = lambda _: [],
) -> Pack:
    """Open the pack of a source, and make it first where there is none.

    Args:
        name: begins the name of the file.
        key: anything with a stable `repr` that changes when the source or the options of `decode` do.
        classes: lists the source; called only where the pack is to be made.
        decode: one image to uint8 `[channels, height, width]`, the same shape for all.
        cache: folder of the packs; see `root.cache_folder`.
        check: what is wrong with the classes found; reported together with the images that cannot be read.

    Raises:
        ValueError: where the classes are wrong or images cannot be read, naming them all at once.
        OSError: where the pack cannot be written (disk full), naming it.
    """
    digest = blake2b(repr((FORMAT, key)).encode(), digest_size=8).hexdigest()
    path = (cache_folder(cache) / f"{name}-{digest}.safetensors").absolute()
    if (shared := _open.get(path)) is not None:
        return shared
    pack = None
    if path.exists():
        try:
            pack = _read(path)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            log.warning("%s is damaged (%s); making it again", path, error)
    if pack is None:
        found = sorted(classes(), key=lambda c: c.name)
        images = _read_images(name, found, decode, check(found))
        write_whole(path, lambda temporary: _write(temporary, found, images))
        pack = _read(path)
    _open[path] = pack
    return pack


def name_some(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _read_images(name: str, classes: list[ClassFiles], decode: Decode, wrong: list[str]) -> Iterator[NDArray[np.uint8]]:
    """All images, each `[channels, height, width]`. What is unreadable or wrong is told at the end, all at once."""
    shape: tuple[int, ...] | None = None
    total, bad = sum(len(c.images) for c in classes), []
    with tqdm(total=total, desc=f"packing {name}", unit=" images", leave=False, disable=None) as bar:
        for c in classes:
            for file in c.images:
                try:
                    with c.files.image(file) as opened:
                        image = decode(opened)
                    shape = shape or image.shape
                    if image.shape != shape:
                        raise ValueError(f"shape {list(image.shape)}, others have {list(shape)}")
                except Exception as error:  # image decoders raise whatever they like
                    bad.append(f"{c.files.path.name}/{file} ({error or type(error).__name__})")
                else:
                    yield image
            bar.update(len(c.images))
    if bad or shape is None:
        wrong = [*wrong, f"{len(bad) or 'none'}: {name_some(bad)}"]
    if wrong:
        raise ValueError(f"expected readable images of one shape, got {'; '.join(wrong)}; mend or remove them")


def _write(path: Path, classes: list[ClassFiles], images: Iterator[NDArray[np.uint8]]) -> None:
    """The file from front to back, then its header once more, when the hashes of the content are known."""
    group_names = sorted({c.group for c in classes if c.group is not None})
    number = {group: i for i, group in enumerate(group_names)}
    groups = np.array([number[c.group] for c in classes if c.group is not None], dtype=np.int64)
    start = np.cumsum([0, *(len(c.images) for c in classes)], dtype=np.int64)
    first = next(images)
    about = {"format": FORMAT, "class_names": [c.name for c in classes], "group_names": group_names}
    shapes = {"start": start.shape, "groups": groups.shape, "images": (int(start[-1]), *first.shape)}
    fingerprint = blake2b(repr(first.shape).encode(), digest_size=8)  # of names and pixels, in the order of the names
    checksum = _checksum(start, groups)
    with path.open("wb") as file:
        file.write(_header(about, "0" * 16, "0" * 8, shapes))
        file.write(start.tobytes() + groups.tobytes())
        images, left = chain([first], images), CHECKED
        for c in classes:
            fingerprint.update(f"{c.name}\0{len(c.images)}\0".encode())
            for image in islice(images, len(c.images)):
                content = image.tobytes()
                file.write(content)
                fingerprint.update(content)
                checksum = zlib.crc32(content[: max(left, 0)], checksum)
                left -= len(content)
        next(images, None)  # the reader's last word
        file.seek(0)
        file.write(_header(about, fingerprint.hexdigest(), f"{checksum:08x}", shapes))


def _header(about: dict[str, object], fingerprint: str, checksum: str, shapes: dict[str, tuple[int, ...]]) -> bytes:
    """The header of a safetensors file, as long for other hashes of the same length."""
    header: dict[str, object] = {
        "__metadata__": {"metabox": json.dumps({**about, "fingerprint": fingerprint, "checksum": checksum})}
    }
    at = 0
    for name, shape in shapes.items():
        code, size = ("U8", 1) if name == "images" else ("I64", 8)
        end = at + size * math.prod(shape)
        header[name] = {"dtype": code, "shape": shape, "data_offsets": (at, end)}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read(path: Path) -> Pack:
    with safe_open(path, framework="pt") as file:
        about = json.loads((file.metadata() or {})["metabox"])
        images, start, groups = (file.get_tensor(name) for name in ("images", "start", "groups"))
    got = f"{_checksum(start.numpy(), groups.numpy(), images.numpy().reshape(-1)[:CHECKED]):08x}"
    if got != about["checksum"]:
        raise ValueError(f"checksum {got}, expected {about['checksum']}")
    return Pack(
        images=images,
        start=start.numpy(),
        groups=groups.numpy() if len(groups) else None,
        class_names=about["class_names"],
        group_names=about["group_names"],
        fingerprint=about["fingerprint"],
    )


def _checksum(*arrays: NDArray[np.generic]) -> int:
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(array, checksum)  # type: ignore[arg-type]  # a contiguous array is a buffer
    return checksum
