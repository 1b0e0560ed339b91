"""Packs: all images of a set in one memory-mapped file, made at its first use.

A pack is a safetensors file: `images` uint8 `[n, channels, height, width]` sorted by class, `start`
int64 `[n_classes + 1]`, `groups` int64 `[n_classes]` (or empty), and JSON about them. It is keyed by
what is cheap to know of the source (names, sizes, times, options), and carries a fingerprint of the
content that is the same however the source was packaged. It is written whole or not at all, and a
checksum shows when it has been damaged since.
"""

from __future__ import annotations

import json
import logging
import weakref
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from metabox.data.root import Files, cache_folder
from metabox.files import write_whole

FORMAT = 1
SHOWN = 10  # names in one error message

log = logging.getLogger(__name__)

Decode = Callable[[bytes], NDArray[np.uint8]]


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
    name: str, key: object, classes: Callable[[], list[ClassFiles]], decode: Decode, cache: str | None = None
) -> Pack:
    """Open the pack of a source, and make it first where there is none.

    Args:
        name: begins the name of the file.
        key: anything with a stable `repr` that changes when the source or the options of `decode` do.
        classes: lists the source; called only where the pack is to be made.
        decode: one image file's bytes to uint8 `[channels, height, width]`, the same shape for all.
        cache: folder of the packs; see `root.cache_folder`.

    Raises:
        ValueError: where images cannot be read, naming them.
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
        write_whole(path, lambda temporary: _write(temporary, found, _read_images(name, found, decode)))
        pack = _read(path)
    _open[path] = pack
    return pack


def name_some(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _read_images(name: str, classes: list[ClassFiles], decode: Decode) -> NDArray[np.uint8]:
    """`[n, channels, height, width]`. Every unreadable file is found before one error names them."""
    images: NDArray[np.uint8] | None = None
    total, done, bad = sum(len(c.images) for c in classes), 0, []
    with tqdm(total=total, desc=f"packing {name}", unit=" images", leave=False, disable=None) as bar:
        for c in classes:
            for file in c.images:
                try:
                    image = decode(c.files.read(file))
                    if images is None:
                        images = np.empty((total, *image.shape), dtype=np.uint8)
                    if image.shape != images.shape[1:]:
                        raise ValueError(f"shape {list(image.shape)}, others have {list(images.shape[1:])}")
                    images[done] = image
                except Exception as error:  # image decoders raise whatever they like
                    bad.append(f"{c.files.path.name}/{file} ({error or type(error).__name__})")
                done += 1
            bar.update(len(c.images))
    if bad or images is None:
        raise ValueError(
            f"expected readable images of one shape, got {len(bad) or 'none'}: {name_some(bad)}; mend or remove them"
        )
    return images


def _write(path: Path, classes: list[ClassFiles], images: NDArray[np.uint8]) -> None:
    counts = [len(c.images) for c in classes]
    group_names = sorted({c.group for c in classes if c.group is not None})
    number = {group: i for i, group in enumerate(group_names)}
    groups = [number[c.group] for c in classes if c.group is not None]
    start = np.cumsum([0, *counts], dtype=np.int64)
    about = {
        "format": FORMAT,
        "class_names": [c.name for c in classes],
        "group_names": group_names,
        "fingerprint": _fingerprint([c.name for c in classes], start, images),
        "checksum": _checksum(images, start, np.array(groups, dtype=np.int64)),
    }
    tensors = {"images": images, "start": start, "groups": np.array(groups, dtype=np.int64)}
    try:
        save_file({k: torch.from_numpy(v) for k, v in tensors.items()}, path, {"metabox": json.dumps(about)})
    except SafetensorError as error:  # safetensors' own name for a full disk
        raise OSError(str(error)) from error


def _read(path: Path) -> Pack:
    with safe_open(path, framework="pt") as file:
        about = json.loads((file.metadata() or {})["metabox"])
        images, start, groups = (file.get_tensor(name) for name in ("images", "start", "groups"))
    got = _checksum(*(t.numpy() for t in (images, start, groups)))
    if got != about["checksum"]:
        raise ValueError(f"checksum {got:08x}, expected {about['checksum']:08x}")
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


def _fingerprint(names: list[str], start: NDArray[np.int64], images: NDArray[np.uint8]) -> str:
    """A hash of class names and pixels in the order of the names; the files' names and packaging do not enter."""
    content = blake2b(repr(images.shape[1:]).encode(), digest_size=8)
    for name, low, high in zip(names, start[:-1], start[1:], strict=True):
        content.update(f"{name}\0{high - low}\0".encode())
        content.update(images[low:high].tobytes())
    return content.hexdigest()
