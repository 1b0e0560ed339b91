"""Packs: all images of a set in one memory-mapped file, made at the first use of the set.

A pack is a safetensors file: `images` uint8 `[n, channels, height, width]` sorted by class, `start`
int64 `[n_classes + 1]`, `groups` int64 `[n_classes]` (or empty), and JSON about them. Its key is
what is cheap to know about the source (names, sizes, times, options), and it carries a fingerprint of the
content that is the same however the source was packaged. It is written image by image, since a set may be
larger than memory, and atomically.

Damage is detected: the header carries a hash of itself and a checksum of `start`, `groups` and the first 4 GiB of
images, and both are verified whenever a pack is opened. The rest is verified against the fingerprint when the pack has
just been made, and by `check_pack`.
"""

from __future__ import annotations

import json
import logging
import math
import os
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
from tqdm.auto import tqdm

from metabox.data.noticed import Noticed
from metabox.data.readers import name_some, open_file
from metabox.data.root import Files, cache_folder
from metabox.files import remove_orphans, write_atomically

FORMAT = 3
BEGIN = b'{"__metadata__": {"hash": "'
HASH = 32  # hexadecimal digits
CHECKED = 4 << 30  # bytes of images that the checksum covers: reading more at every start would take too long

log = logging.getLogger(__name__)

Decode = Callable[[Image.Image], NDArray[np.uint8]]


@dataclass(frozen=True)
class ClassFiles:
    """The images of one class, as names of files."""

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

    def rows(self, device: torch.device, turned: bool = False) -> Tensor:
        """The images as rows `[n, pixels]` on the device, copied there once.

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
    """Open the pack of a source, making it first if there is none.

    Args:
        name: the file name begins with it.
        key: anything with a stable `repr` that changes when the source or the options of `decode` do.
        classes: lists the source; called only if the pack is made.
        decode: converts an image to uint8 `[channels, height, width]`, the same shape for all.
        cache: folder of the packs; see `root.cache_folder`.
        check: what is wrong with the classes found; reported together with the images that cannot be read.

    Raises:
        ValueError: if classes are wrong or images cannot be read, naming all of them.
        OSError: if the pack cannot be written (disk full), naming it.
    """
    digest = blake2b(repr((FORMAT, key)).encode(), digest_size=8).hexdigest()
    path = (cache_folder(cache) / f"{name}-{digest}.safetensors").absolute()
    if (shared := _open.get(path)) is not None:
        return shared
    pack = None
    if path.exists():
        try:
            pack = _read(path)
        except (OSError, ValueError) as error:
            log.warning("%s is damaged (%s); making it again", path, error)
    if pack is None:
        found = _listed(name, classes)
        images = _read_images(name, found, decode, check(found))
        remove_orphans(path.parent)
        write_atomically(path, lambda temporary: _write(temporary, found, images))
        try:
            pack = _read(path, every_pixel=True)
        except ValueError as error:
            raise ValueError(f"expected {path} as it was just written, got {error}; check the disk") from error
    _open[path] = pack
    return pack


def check_pack(path: str | Path) -> None:
    """Read a pack from end to end.

    Raises:
        ValueError: if anything in it has changed since it was made, or another version of metabox made it.
        OSError: if it cannot be read.
    """
    _read(Path(path), every_pixel=True)


def check_packs(folder: str | None = None) -> dict[Path, str | None]:
    """What is wrong with each pack of a folder, by default of the cache (`root.cache_folder`); None if nothing is."""
    found: dict[Path, str | None] = {}
    for path in sorted(cache_folder(folder).glob("*.safetensors")):
        try:
            check_pack(path)
            found[path] = None
        except (ValueError, OSError) as error:
            found[path] = str(error)
    return found


def _listed(name: str, classes: Callable[[], list[ClassFiles]]) -> list[ClassFiles]:
    """The classes of a source, by name."""
    try:
        return sorted(classes(), key=lambda c: c.name)
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError) as error:
        # Lists come from files, and a malformed one can fail anywhere.
        raise ValueError(
            f"expected the files of {name} in a known layout, got something else "
            f"({type(error).__name__}: {str(error)[:200]}); get them again"
        ) from error


def _read_images(name: str, classes: list[ClassFiles], decode: Decode, wrong: list[str]) -> Iterator[NDArray[np.uint8]]:
    """All images, each `[channels, height, width]`. All that are unreadable or wrong are reported at the end."""
    shape: tuple[int, ...] | None = None
    total, bad, noticed = sum(len(c.images) for c in classes), [], Noticed()
    with tqdm(total=total, desc=f"packing {name}", unit=" images", leave=False, disable=None) as bar:
        for c in classes:
            for file in c.images:
                try:
                    with c.files.image(file) as opened:
                        image = decode(opened)
                    shape = shape or image.shape
                    if image.shape != shape:
                        raise ValueError(f"shape {list(image.shape)}, others have {list(shape)}")
                    noticed.see(f"{c.files.path.name}/{file}", opened, image)
                except Exception as error:  # image decoders raise all kinds of exceptions
                    bad.append(f"{c.files.path.name}/{file} ({error or type(error).__name__})")
                else:
                    yield image
            bar.update(len(c.images))
    if bad or shape is None:
        wrong = [*wrong, f"{len(bad) or 'none'}: {name_some(bad)}"]
    elif not wrong:
        wrong = noticed.wrong()
        noticed.say(name)
    if wrong:
        raise ValueError(f"expected readable images of one shape, got {'; '.join(wrong)}; mend or remove them")


def _write(path: Path, classes: list[ClassFiles], images: Iterator[NDArray[np.uint8]]) -> None:
    """Write the file, then its header again once the hashes of the content are known."""
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
        file.write(_header(about, "0" * 16, "0" * 8, shapes))  # as long as the final one
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
        next(images, None)  # the reader reports errors at its end
        file.seek(0)
        file.write(_header(about, fingerprint.hexdigest(), f"{checksum:08x}", shapes))


def _header(about: dict[str, object], fingerprint: str, checksum: str, shapes: dict[str, tuple[int, ...]]) -> bytes:
    """The header of a safetensors file, with its own hash first; its length does not depend on the hashes."""
    facts = json.dumps({**about, "fingerprint": fingerprint, "checksum": checksum})
    header: dict[str, object] = {"__metadata__": {"hash": "0" * HASH, "metabox": facts}}
    at = 0
    for name, shape in shapes.items():
        code, size = ("U8", 1) if name == "images" else ("I64", 8)
        end = at + size * math.prod(shape)
        header[name] = {"dtype": code, "shape": shape, "data_offsets": (at, end)}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    blank = len(text).to_bytes(8, "little") + text
    return _own_hash(blank)[0]


def _own_hash(header: bytes) -> tuple[bytes, bool]:
    """A header with its hash (computed with zeros in its place), and whether the header already had it."""
    at = len(BEGIN) + 8
    blank = header[:at] + b"0" * HASH + header[at + HASH :]
    digest = blake2b(blank, digest_size=HASH // 2).hexdigest().encode()
    return header[:at] + digest + header[at + HASH :], header[at : at + HASH] == digest


def _read(path: Path, every_pixel: bool = False) -> Pack:
    """
    Raises:
        ValueError: if anything that is verified has changed, saying what.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(8)
        head += file.read(min(int.from_bytes(head, "little"), size))
    if not head[8:].startswith(BEGIN):
        raise ValueError("no header of a pack, or that of another version of metabox")
    if not _own_hash(head)[1]:
        raise ValueError("its header has changed")
    try:
        header = json.loads(head[8:])
        about = json.loads(header["__metadata__"]["metabox"])
        if (wanted := len(head) + header["images"]["data_offsets"][1]) != size:  # a memory map has no length check
            raise ValueError(f"{size:,} bytes, expected {wanted:,}")
        with safe_open(path, framework="pt") as content:
            images, start, groups = (content.get_tensor(name) for name in ("images", "start", "groups"))
        got = f"{_checksum(start.numpy(), groups.numpy(), images.numpy().reshape(-1)[:CHECKED]):08x}"
        if got != about["checksum"]:
            raise ValueError(f"checksum {got}, expected {about['checksum']}")
        pack = Pack(
            images=images,
            start=start.numpy(),
            groups=groups.numpy() if len(groups) else None,
            class_names=about["class_names"],
            group_names=about["group_names"],
            fingerprint=about["fingerprint"],
        )
        _check_index(pack)
        if every_pixel and (got := _fingerprint(pack)) != pack.fingerprint:
            raise ValueError(f"fingerprint {got}, expected {pack.fingerprint}: its images have changed")
    except (SafetensorError, LookupError, TypeError) as error:  # a correct hash, but not written by metabox
        raise ValueError(f"no pack ({type(error).__name__}: {error})") from error
    return pack


def _check_index(pack: Pack) -> None:
    """Raise unless every class has a name and a range of images."""
    start, groups, n = pack.start, pack.groups, len(pack.class_names)
    whole = pack.images.ndim == 4 and start.shape == (n + 1,) and start[0] == 0 and start[-1] == len(pack.images)
    if not whole or (np.diff(start) < 0).any():
        raise ValueError(f"classes that do not fit {n} names and {len(pack.images)} images")
    if groups is not None and not (len(groups) == n and 0 <= groups.min() <= groups.max() < len(pack.group_names)):
        raise ValueError(f"groups that do not fit {n} classes and {len(pack.group_names)} names")


def _fingerprint(pack: Pack) -> str:
    """The fingerprint as `_write` computes it."""
    fingerprint = blake2b(repr(tuple(pack.images.shape[1:])).encode(), digest_size=8)
    for name, begin, end in zip(pack.class_names, pack.start[:-1], pack.start[1:], strict=True):
        fingerprint.update(f"{name}\0{end - begin}\0".encode())
        for image in pack.images[begin:end].numpy():
            fingerprint.update(image.data)
    return fingerprint.hexdigest()


def _checksum(*arrays: NDArray[np.generic]) -> int:
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(array, checksum)  # type: ignore[arg-type]  # a contiguous array is a buffer
    return checksum
