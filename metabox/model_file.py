"""The files `*.metabox`: safetensors with checked metadata. Reading one executes nothing, whoever made it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from metabox.files import HASH, write_atomically
from metabox.tensors import hash_of

SUFFIX = ".metabox"
KEY, FORMAT = "metabox", 1
MOST_BYTES = 4 << 30
MOST_HEADER = 16 << 20
MOST_ABOUT = 4 << 20  # characters of the metadata
MOST_TENSORS = 20_000
DTYPES = ("F16", "BF16", "F32", "F64", "I64", "I32", "U8", "BOOL")

Content = dict[str, Any]


def to_bytes(kind: str, tensors: dict[str, Tensor], about: Content) -> bytes:
    """A file of this kind, "model" or "adaptation". Floats that lose nothing by it are stored in half precision."""
    stored = {name: _smaller(tensor.detach().cpu()) for name, tensor in tensors.items()}
    metadata = {KEY: json.dumps({"format": FORMAT, "kind": kind, **about}, allow_nan=False)}
    metadata[HASH] = hash_of(stored, metadata)
    content: bytes = save_safetensors(stored, metadata)
    return content


def from_bytes(kind: str, content: bytes, where: str) -> tuple[dict[str, Tensor], Content]:
    """The tensors and the metadata of `to_bytes`.

    Raises:
        ValueError: if it is no such file, too large, damaged, or of a later format.
    """
    metadata = _metadata(content, where)
    try:
        tensors: dict[str, Tensor] = load_safetensors(content)
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"expected a model of metabox in {where}, got a damaged file ({error})") from error
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}  # copies are aligned, see `load_tensors`
    if metadata.pop(HASH, None) != hash_of(tensors, metadata):
        raise ValueError(f"expected {where} as it was written, got a file that was damaged or changed; restore it")
    try:
        about = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected metadata as JSON in {where}, got something else ({str(error)[:100]})") from error
    if not isinstance(about, dict) or about.pop("format", None) != FORMAT:
        raise ValueError(f"expected format {FORMAT} in {where}, got another one; a newer metabox may read it")
    if (got := about.pop("kind", None)) != kind:
        raise ValueError(f"expected a file of kind {kind!r} in {where}, got {str(got)[:40]!r}")
    return tensors, about


def write(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write atomically, with the suffix of the format.

    Raises:
        ValueError: if the path has another suffix.
        OSError: if it cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"expected a file name that ends in {SUFFIX}, got {str(path)!r}")
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return path


def read(path: str | os.PathLike[str]) -> bytes:
    """
    Raises:
        ValueError: if there is no such file, or it is larger than 4 GiB.
    """
    path = Path(path)
    if not path.is_file():  # opening a pipe would wait for a writer
        raise ValueError(f"expected a file {SUFFIX} in {path}, found no such file")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"expected a file of at most {MOST_BYTES >> 30} GiB, got {path}, which is larger")
    return path.read_bytes()


def size_of(n_bytes: int) -> str:
    """A number of bytes for people."""
    return f"{n_bytes / 1e6:,.2f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:,.1f} kB"


def _smaller(tensor: Tensor) -> Tensor:
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    if tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor):
        return tensor.half()
    return tensor


def _metadata(content: bytes, where: str) -> dict[str, str]:
    """The metadata, after the whole header has been checked; safetensors would read any number of tensors."""
    size = int.from_bytes(content[:8], "little")
    if len(content) < 10 or size > min(MOST_HEADER, len(content) - 8):
        raise ValueError(f"expected a model of metabox in {where}, got another or a damaged file")
    try:
        header = json.loads(content[8 : 8 + size])
        metadata = header.pop("__metadata__")
        odd = [part["dtype"] for part in header.values() if part["dtype"] not in DTYPES or len(part["shape"]) > 8]
        text = metadata[KEY]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected a model of metabox in {where}, got another or a damaged file") from error
    if odd or len(header) > MOST_TENSORS or not isinstance(text, str) or len(text) > MOST_ABOUT:
        raise ValueError(f"expected a model of metabox in {where}, got tensors or metadata beyond its limits")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"expected a model of metabox in {where}, got other metadata")
    return dict(metadata)
