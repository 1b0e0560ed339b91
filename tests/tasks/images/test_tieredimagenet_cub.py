"""tieredImageNet and CUB in the layouts that they are handed around in."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from image_set_cases import EACH, WNIDS, encoded, opened, pixels, put, small, wanted
from made_up import everything
from PIL import Image

from metabox.tasks import CUB, TieredImageNet

TIERED = {split: [f"{split}/{k:03} bird {k}" for k in range(len(names))] for split, names in WNIDS.items()}


@pytest.fixture
def tiered(tmp_path, monkeypatch):
    small(TieredImageNet, monkeypatch, tmp_path, TIERED)
    root = tmp_path / "data"
    (root / "tiered-imagenet").mkdir(parents=True)
    for split, names in TIERED.items():
        labels = {
            "label_specific": np.repeat(np.arange(len(names), dtype=np.int32), EACH),
            "label_general": np.zeros(EACH * len(names), dtype=np.int32),
            "label_specific_str": [name.partition(" ")[2] for name in names],
            "label_general_str": [f"category {split}"],
        }
        put(root / "tiered-imagenet" / f"{split}_labels.pkl", pickle.dumps(labels, 2))
    return root


def put_png(root: Path) -> None:
    for split, names in TIERED.items():
        images = [np.frombuffer(encoded(pixels(name, i)), np.uint8)[:, None] for name in names for i in range(EACH)]
        put(root / "tiered-imagenet" / f"{split}_images_png.pkl", pickle.dumps(images, 2))


def put_npz(root: Path) -> None:
    for split, names in TIERED.items():
        blue_first = np.stack([pixels(name, i)[..., ::-1] for name in names for i in range(EACH)])
        np.savez(root / "tiered-imagenet" / f"{split}_images.npz", images=blue_first)


@pytest.mark.parametrize("images", [put_png, put_npz])
def test_the_caches_of_tieredimagenet_have_classes_in_categories(tiered, images):
    images(tiered)
    sampler = opened(TieredImageNet, tiered, within_groups=True)
    names = [name for split in TIERED.values() for name in split]
    assert torch.equal(everything(sampler), wanted(names))
    assert sampler.images.pack.class_names == sorted(names)
    assert sampler.images.pack.group_names == ["test/category test", "train/category train", "val/category val"]
    assert {k: v.tolist() for k, v in sampler.images.splits.items()} == {"train": [1, 2], "val": [3], "test": [0]}


def test_a_folder_for_each_split_is_tieredimagenet_too(tiered):
    for path in (tiered / "tiered-imagenet").iterdir():
        path.unlink()
    for split, names in WNIDS.items():
        for name in names:
            for i in range(EACH):
                put(tiered / "tiered-imagenet" / split / name / f"{i}.png", encoded(pixels(name, i)))
    sampler = opened(TieredImageNet, tiered)
    assert sampler.images.splits["train"].tolist() == [1, 2]
    assert sampler.images.class_name(1) == "train/n00000001"
    for file in (tiered / "tiered-imagenet" / "val" / "n00000002").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="wrong numbers of classes: 0 in val instead of 1; 9 images instead of 12"):
        opened(TieredImageNet, tiered)


def test_cub_is_read_by_its_lists_and_cut_to_the_middle(tmp_path, monkeypatch):
    splits = {"train": ["001.A", "003.C"], "val": ["002.B"], "test": ["004.D"]}
    small(CUB, monkeypatch, tmp_path, splits)
    folder = tmp_path / "data" / "cub" / "CUB_200_2011"
    names = sorted(name for split in splits.values() for name in split)
    paths = [f"{name}/{name[4:]}_{i:04}.jpg" for name in names for i in range(EACH)]
    for path in paths:
        put(folder / "images" / path, encoded(pixels(path, 0, 100)))
    (folder / "images.txt").write_text("".join(f"{n + 1} {path}\n" for n, path in enumerate(paths)))
    (folder / "classes.txt").write_text("".join(f"{k + 1} {name}\n" for k, name in enumerate(names)))
    labels = "".join(f"{n + 1} {n // EACH + 1}\n" for n in range(len(paths)))
    (folder / "image_class_labels.txt").write_text(labels)
    sampler = opened(CUB, tmp_path / "data")
    large = Image.fromarray(pixels(paths[0], 0, 100)).resize((96, 96), Image.Resampling.BILINEAR)
    assert np.array_equal(everything(sampler)[0].permute(1, 2, 0), np.asarray(large.crop((6, 6, 90, 90))))
    assert {k: v.tolist() for k, v in sampler.images.splits.items()} == {"train": [0, 2], "val": [1], "test": [3]}
    (folder / "images" / paths[4]).unlink()
    with pytest.raises(ValueError, match=r"images/002\.B/B_0001\.jpg \(.*No such file"):
        opened(CUB, tmp_path / "data")
