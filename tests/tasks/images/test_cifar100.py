"""CIFAR-FS and FC100 in each layout of CIFAR-100."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from image_set_cases import EACH, encoded, opened, pixels, put, small, wanted
from made_up import everything

from metabox.tasks import CIFARFS, FC100

CIFAR = {"train": ["oak_tree", "apple"], "val": ["sea"], "test": ["can"]}

CIFAR_ALL = sorted(name for names in CIFAR.values() for name in names)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    for cls in (CIFARFS, FC100):
        small(cls, monkeypatch, tmp_path, CIFAR)
    root = tmp_path / "data"
    (root / "cifar-fs").mkdir(parents=True)
    return root


def as_zip(root: Path) -> None:
    with zipfile.ZipFile(root / "cifar-fs" / "cifar100.zip", "w") as archive:
        archive.writestr("cifar100/splits/bertinetto/train.txt", "apple\n")
        for name in CIFAR_ALL:
            for i in range(EACH):
                archive.writestr(f"cifar100/data/{name}/{name}_s_{i:06}.png", encoded(pixels(name, i, 32)))


def as_extracted(root: Path) -> None:
    as_zip(root)
    with zipfile.ZipFile(root / "cifar-fs" / "cifar100.zip") as archive:
        archive.extractall(root / "cifar-fs")
    (root / "cifar-fs" / "cifar100.zip").unlink()


def as_batches(root: Path) -> None:
    """As torchvision downloads it: shuffled rows, in two files."""
    rows = [(k, i) for k in range(len(CIFAR_ALL)) for i in range(EACH)]
    np.random.default_rng(0).shuffle(rows)
    for part, chosen in (("train", rows[:7]), ("test", rows[7:])):
        batch = {
            "data": np.stack([pixels(CIFAR_ALL[k], i, 32).transpose(2, 0, 1).ravel() for k, i in chosen]),
            "fine_labels": [int(k) for k, _ in chosen],
            "filenames": [f"{CIFAR_ALL[k]}_s_{i:06}.png" for k, i in chosen],
        }
        put(root / "cifar-100-python" / part, pickle.dumps(batch, 2))
    put(root / "cifar-100-python" / "meta", pickle.dumps({"fine_label_names": CIFAR_ALL}, 2))


@pytest.mark.parametrize("cls", [CIFARFS, FC100])
@pytest.mark.parametrize("layout", [as_zip, as_extracted, as_batches])
def test_every_layout_of_cifar_100_is_the_same_set(cifar, cls, layout):
    layout(cifar)
    sampler = opened(cls, cifar)
    assert torch.equal(everything(sampler), wanted(CIFAR_ALL, 32))
    assert sampler.images.pack.class_names == CIFAR_ALL
    assert {k: v.tolist() for k, v in sampler.images.splits.items()} == {"train": [0, 2], "val": [3], "test": [1]}


def test_cifar_fs_and_fc100_share_one_pack(cifar, cache):
    as_zip(cifar)
    assert opened(CIFARFS, cifar).images.pack is opened(FC100, cifar).images.pack
    assert len(list(cache.iterdir())) == 1


def test_the_pickles_of_metaoptnet_are_read(cifar):
    for split, names in CIFAR.items():
        images = np.stack([pixels(name, i, 32) for name in names for i in range(EACH)])
        labels = np.repeat(np.arange(len(names)), EACH).tolist()
        put(cifar / "fc100" / f"FC100_{split}.pickle", pickle.dumps({"data": images, "labels": labels}, 2))
    sampler = opened(FC100, cifar)
    assert sampler.images.pack.class_names == ["test/000", "train/000", "train/001", "val/000"]
