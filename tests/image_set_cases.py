"""What the tests of published image sets share: small sets in the layouts of the real ones."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from metabox.tasks.images import published

EACH = 3  # images of a class

WNIDS = {"train": ["n00000003", "n00000001"], "val": ["n00000002"], "test": ["n00000004"]}


def pixels(name: str, i: int, size: int = 84) -> np.ndarray:
    seed = [*name.encode(), i]
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def encoded(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")  # Pillow goes by content, not by the name's .jpg
    return stream.getvalue()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def wanted(names: list[str], size: int = 84) -> torch.Tensor:
    images = [pixels(name, i, size) for name in sorted(names) for i in range(EACH)]
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())


def small(cls, monkeypatch, tmp_path, splits) -> None:
    """The class with so few classes and images."""
    folder = tmp_path / "splits"
    folder.mkdir(exist_ok=True)
    (folder / f"{cls.name}.json").write_text(json.dumps(splits))
    monkeypatch.setattr(published, "CLASS_LISTS", folder)
    monkeypatch.setattr("metabox.tasks.images.miniimagenet.CLASS_LISTS", folder)
    monkeypatch.setattr(cls, "n_classes", {split: len(names) for split, names in splits.items()})
    monkeypatch.setattr(cls, "n_images", EACH if cls.n_images else None)
    monkeypatch.setattr(cls, "total", EACH * sum(map(len, splits.values())))


def opened(cls, root: Path, **kwargs):
    sampler = cls(data_root=str(root), **({"n_way": 1, "n_shot": 1, "n_query": 1} | kwargs))
    assert sampler.images is not None
    return sampler
