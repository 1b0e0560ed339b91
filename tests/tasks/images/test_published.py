"""What holds for every published set: its name in errors, its splits, its images where they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from metabox.discover import subclasses
from metabox.tasks import CIFARFS, FC100, TieredImageNet
from metabox.tasks.images import published
from metabox.tasks.place import Place

SETS = [found.load() for found in subclasses("PublishedImages")]


@pytest.mark.parametrize("cls", SETS)
def test_a_set_that_is_not_there_is_asked_for_by_name_and_place(cls, tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.CIFAR100", offline)
    with pytest.raises(ValueError, match=f"expected {cls.title} under .*found none") as error:
        assert cls(data_root=str(tmp_path)).images
    for part in ("put ", "under the data root", "--data-root", "METABOX_DATA"):
        assert part in str(error.value)


@pytest.mark.parametrize("cls", [c for c in SETS if c is not TieredImageNet])
def test_the_committed_splits_are_disjoint_and_of_the_published_sizes(cls):
    splits = json.loads((published.CLASS_LISTS / f"{cls.name}.json").read_text())
    assert {split: len(names) for split, names in splits.items()} == cls.n_classes
    names = [name for split in splits.values() for name in split]
    assert len(set(names)) == len(names)
    assert cls.n_images is None or cls.n_images * len(names) == cls.total


def test_the_split_of_cub_goes_by_the_numbers_of_the_species():
    splits = json.loads((published.CLASS_LISTS / "cub.json").read_text())
    for split, rest in (("train", {1, 3}), ("val", {2}), ("test", {0})):
        assert {int(name[:3]) % 4 for name in splits[split]} == rest


@pytest.mark.parametrize("cls", [CIFARFS, FC100])
def test_the_real_images_are_whole(cls, data_with_cifar):
    sampler = cls(data_root=data_with_cifar, n_way=5, n_shot=5, n_query=15)
    images = sampler.images
    assert {split: len(classes) for split, classes in images.splits.items()} == cls.n_classes
    assert (images.sizes == 600).all()
    assert images.fingerprint == "2b7f627f999eb916"
    for split in ("train", "val", "test"):
        assert sampler.sample(Place(4, split)).query.x.shape == (4, 75, 3, 32, 32)


@pytest.fixture(scope="session")
def data_with_cifar() -> str:
    root = Path(os.environ.get("METABOX_DATA") or Path(__file__).parents[4] / "shared" / "data")
    if not (root / "cifar-fs" / "cifar100.zip").is_file():
        pytest.skip("no CIFAR-100: set METABOX_DATA to a folder that holds cifar-fs/cifar100.zip")
    return str(root)
