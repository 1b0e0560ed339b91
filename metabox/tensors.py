"""Named tensors on disk: safetensors, which cannot run code, with a verified hash."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from metabox.files import HASH, write_atomically


def save_tensors(path: str | Path, tensors: dict[str, Tensor], **metadata: object) -> str:
    """Write named tensors (a `state_dict`, a phi) and metadata about them as one safetensors file.

    Returns:
        The hash of tensors and metadata, which is also stored in the file.
    """
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    about = {key: str(value) for key, value in metadata.items()}
    about[HASH] = hash_of(plain, about)
    write_atomically(path, lambda temporary: save_file(plain, temporary, metadata=about))
    return about[HASH]


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file written by `save_tensors`.

    Raises:
        ValueError: if there is no such file, or it has changed since it was written.
    """
    tensors, metadata, _ = read_tensors(Path(path))
    return tensors, metadata


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """As `load_tensors`, and the hash."""
    if not path.is_file():  # opening a pipe would wait for a writer
        raise ValueError(f"expected weights in {path}, found no such file; train first, or check the path")
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            # Copies, which are aligned: how a product is rounded depends on the alignment of its factors.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # not a dictionary
    except OSError as error:
        raise OSError(f"could not read {path}: {error.strerror or error}") from error
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError(f"expected a safetensors file, got a damaged or other one: {path} ({error})") from error
    stored = metadata.pop(HASH, None)
    if stored is None:
        raise ValueError(f"expected a hash in {path}, got none: metabox did not write it, or it was damaged")
    if stored != hash_of(tensors, metadata):
        raise ValueError(
            f"expected {path} as it was written, got tensors or metadata that do not match its hash: "
            "it was damaged or changed; restore it"
        )
    return tensors, metadata, stored


def hash_of(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """A hash of the names, dtypes, shapes and bytes of the tensors, and of the metadata."""
    digest = blake2b(json.dumps(metadata, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_weights(module: nn.Module, path: str | Path) -> dict[str, str]:
    """Load weights into a module of the same architecture; returns the metadata stored with them.

    Raises:
        ValueError: if the file is missing or damaged, or belongs to another architecture.
    """
    tensors, metadata = load_tensors(path)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"expected the weights of this architecture in {path}, got others: {error}") from error
    return metadata
