"""miniImageNet in each layout that it is handed around in, and what is wrong with one."""

from __future__ import annotations

import csv
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from image_set_cases import EACH, WNIDS, encoded, opened, pixels, put, small, wanted
from made_up import everything
from PIL import Image

from metabox.tasks import MiniImageNet
from metabox.tasks.place import Place

ALL = [name for names in WNIDS.values() for name in names]


@pytest.fixture
def mini(tmp_path, monkeypatch):
    small(MiniImageNet, monkeypatch, tmp_path, WNIDS)
    root = tmp_path / "data"
    root.mkdir()
    return root


def put_lists(folder: Path, numbers: range = range(1, EACH + 1)) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    for split, names in WNIDS.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["filename", "label"])
            rows.writerows([f"{name}{i:08}.jpg", name] for name in names for i in numbers)


def as_lists(root: Path) -> None:
    put_lists(root / "mini-imagenet")
    for name in ALL:
        for i in range(EACH):
            put(root / "mini-imagenet" / "images" / f"{name}{i + 1:08}.jpg", encoded(pixels(name, i)))


def as_cache(root: Path) -> None:
    for split, names in WNIDS.items():
        content = {
            "image_data": np.stack([pixels(name, i) for name in names for i in range(EACH)]),
            "class_dict": {name: list(range(EACH * k, EACH * (k + 1))) for k, name in enumerate(names)},
        }
        put(root / "miniimagenet" / f"mini-imagenet-cache-{split}.pkl", pickle.dumps(content, 2))


def as_folders(root: Path) -> None:
    for name in ALL:
        for i in range(EACH):
            put(root / "mini_imagenet" / name / f"{i}.jpg", encoded(pixels(name, i)))


def as_split_folders(root: Path) -> None:
    for split, names in WNIDS.items():
        for name in names:
            for i in range(EACH):
                put(root / "miniImageNet" / split / name / f"{i}.jpg", encoded(pixels(name, i)))


def as_imagenet(root: Path) -> None:
    """Numbers in the names are neither dense nor of one length, and there are more images and classes."""
    put_lists(root / "mini-imagenet", range(2, EACH + 2))
    for name in [*ALL, "n00000009"]:
        for number, i in zip([2, 18, 100, 1203, 20000], [9, 0, 1, 2, 8], strict=True):
            put(root / "ILSVRC2012" / "train" / name / f"{name}_{number}.JPEG", encoded(pixels(name, i)))


@pytest.mark.parametrize("layout", [as_lists, as_cache, as_folders, as_split_folders, as_imagenet])
def test_every_layout_of_miniimagenet_is_the_same_set(mini, layout):
    layout(mini)
    sampler = opened(MiniImageNet, mini)
    assert torch.equal(everything(sampler), wanted(ALL))
    assert sampler.images.pack.class_names == sorted(ALL)
    assert {k: v.tolist() for k, v in sampler.images.splits.items()} == {"train": [0, 2], "val": [1], "test": [3]}
    assert sampler.sample(Place(2, "train")).support.x.shape == (2, 1, 3, 84, 84)


def test_the_layouts_of_miniimagenet_have_one_fingerprint(mini, tmp_path):
    prints = set()
    for layout in (as_lists, as_cache, as_folders, as_split_folders, as_imagenet):
        root = tmp_path / layout.__name__
        root.mkdir()
        layout(root)
        prints.add(opened(MiniImageNet, root).fingerprint())
    assert len(prints) == 1


def test_the_pickles_of_gidaris_have_classes_by_number(mini):
    files = {"train": "train_phase_train", "val": "val", "test": "test"}
    first = 0
    for split, names in WNIDS.items():
        labels = [first + k for k in range(len(names)) for _ in range(EACH)]
        first += len(names)
        images = np.stack([pixels(name, i) for name in names for i in range(EACH)])
        put(
            mini / "mini-imagenet" / f"miniImageNet_category_split_{files[split]}.pickle",
            pickle.dumps({"data": images, "labels": labels, "catname2label": {}}, 2),
        )
    sampler = opened(MiniImageNet, mini)
    assert sampler.images.pack.class_names == ["test/003", "train/000", "train/001", "val/002"]
    assert {k: v.tolist() for k, v in sampler.images.splits.items()} == {"train": [1, 2], "val": [3], "test": [0]}
    got = sampler.images.gather(np.array([1, 3]), np.array([2, 0]), "cpu")
    assert np.array_equal(got[0].permute(1, 2, 0), pixels(WNIDS["train"][0], 2))
    assert np.array_equal(got[1].permute(1, 2, 0), pixels(WNIDS["val"][0], 0))


def test_without_lists_the_first_images_of_imagenet_are_taken_and_a_warning_says_so(mini, caplog):
    as_imagenet(mini)
    for path in (mini / "mini-imagenet").iterdir():
        path.unlink()
    sampler = opened(MiniImageNet, mini)
    assert "taking the first images" in caplog.text
    assert np.array_equal(
        sampler.images.gather(np.array([0]), np.array([0]), "cpu")[0].permute(1, 2, 0), pixels(ALL[1], 9)
    )


def test_everything_wrong_with_a_set_is_named_in_one_error(mini):
    as_split_folders(mini)
    folder = mini / "miniImageNet" / "train"
    (folder / "n00000001" / "0.jpg").write_bytes(b"no image")
    (folder / "n00000001" / "1.jpg").write_bytes(encoded(pixels("a", 0))[:3000])
    (folder / "n00000003" / "2.jpg").unlink()
    (mini / "miniImageNet" / "test" / "n00000004").rename(folder / "n00000077")
    with pytest.raises(ValueError, match="expected readable images of one shape, got miniImageNet with") as error:
        opened(MiniImageNet, mini)
    for part in (
        "missing classes: n00000004",
        "not in its list: n00000077",
        "classes without 3 images: n00000003 (2)",
        "11 images instead of 12",
        "2: miniImageNet/train/n00000001/0.jpg (no PNG, JPEG",
        "train/n00000001/1.jpg (",
    ):
        assert part in str(error.value), str(error.value)


def test_files_that_a_list_names_and_that_are_not_there_are_named(mini):
    as_lists(mini)
    (mini / "mini-imagenet" / "images" / "n0000000100000002.jpg").unlink()
    with pytest.raises(ValueError, match=r"got 1: images/n0000000100000002\.jpg \(.*No such file"):
        opened(MiniImageNet, mini)


def test_images_that_imagenet_lacks_are_named(mini):
    as_imagenet(mini)
    put_lists(mini / "mini-imagenet", range(4, EACH + 4))
    with pytest.raises(ValueError, match=r"got 4: train/n00000001/number 6 \("):
        opened(MiniImageNet, mini)


def test_lists_and_names_in_another_form_are_refused(mini):
    as_imagenet(mini)
    (mini / "ILSVRC2012" / "train" / "n00000001" / "first.JPEG").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a number at the end of a name.*first\.JPEG"):
        opened(MiniImageNet, mini)
    (mini / "mini-imagenet" / "val.csv").write_text("image,class\n")
    with pytest.raises(ValueError, match=r"columns filename and label in .*val\.csv, got image, class"):
        opened(MiniImageNet, mini)


def test_a_cache_in_part_is_refused_by_name(mini):
    as_cache(mini)
    (mini / "miniimagenet" / "mini-imagenet-cache-val.pkl").unlink()
    with pytest.raises(ValueError, match=r"expected mini-imagenet-cache-val\.pkl in .*beside the others"):
        opened(MiniImageNet, mini)


def test_a_malicious_cache_is_refused(mini, tmp_path):
    as_cache(mini)

    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'owned'}",)

    put(mini / "miniimagenet" / "mini-imagenet-cache-train.pkl", pickle.dumps({"image_data": Malicious()}))
    with pytest.raises(ValueError, match="asks for"):
        opened(MiniImageNet, mini)
    assert not (tmp_path / "owned").exists()


def test_large_images_shrink_to_the_size_asked_for(mini):
    as_folders(mini)
    sampler = opened(MiniImageNet, mini, image_size=20)
    assert sampler.spec.x_shape == (3, 20, 20)
    small = np.asarray(Image.fromarray(pixels(ALL[1], 0)).resize((20, 20), Image.Resampling.LANCZOS))
    assert np.array_equal(everything(sampler)[0].permute(1, 2, 0), small)
