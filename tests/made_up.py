"""Small random sets of images, and how the tests open them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from metabox.tasks.images.folder import ClassFolder

ALL_TRAIN = (1.0, 0.0, 0.0)
SHORT = [
    *("--outer.steps", "1", "--outer.n_tasks", "1", "--outer.accumulate", "1", "--outer.warmup", "0"),
    *("--outer.validate_every", "1", "--outer.n_validation", "1", "--n_test", "1"),
]
"""Options that run a recipe in a second."""


def png(seed: int, size: int = 8, channels: int = 1) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, channels), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(stream, "png")
    return stream.getvalue()


def made(root: Path, classes: list[str], each: int = 4, **kwargs) -> Path:
    """A folder of class folders with random images."""
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(each):
            (root / name / f"{i}.png").write_bytes(png(100 * c + i, **kwargs))
    return root


def opened(path: Path, **kwargs) -> ClassFolder:
    kwargs = {"channels": 1, "splits": ALL_TRAIN, "n_way": 2, "n_shot": 1, "n_query": 1} | kwargs
    sampler = ClassFolder(str(path), **kwargs)
    assert sampler.images is not None
    return sampler


def packs(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


def everything(sampler) -> torch.Tensor:
    """Every drawing of every class, in order."""
    sizes = sampler.images.sizes
    classes = np.repeat(np.arange(len(sizes)), sizes)
    items = np.concatenate([np.arange(size) for size in sizes])
    return sampler.images.gather(classes, items, "cpu")
