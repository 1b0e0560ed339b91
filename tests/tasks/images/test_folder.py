"""Class folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from made_up import everything, made, opened, png
from PIL import Image

from metabox.data.own_splits import dealt
from metabox.tasks.place import Place


def test_nested_folders_are_groups(tmp_path):
    sampler = opened(made(tmp_path / "set", ["b/one", "a/one", "a/two", "b/two"]), within_groups=True)
    assert sampler.images.groups.tolist() == [0, 0, 1, 1]
    assert sampler.images.class_name(2) == "b/one"
    rows = sampler.sample(Place(50, "train")).origin // 4
    assert ((rows // 2) == (rows // 2)[:, :1]).all()


def test_grey_images_are_read_as_rgb_and_colour_as_grey(images, tmp_path):
    assert opened(images, channels=3).images.image_shape == (3, 8, 8)
    colour = made(tmp_path / "colour", ["a"], channels=3)
    assert opened(colour).images.image_shape == (1, 8, 8)
    pixels = np.asarray(Image.open(colour / "a" / "0.png"))
    assert torch.equal(everything(opened(colour, channels=3))[0], torch.from_numpy(pixels.transpose(2, 0, 1).copy()))


def test_a_new_class_never_moves_another_one_between_splits():
    names, fractions = [f"class {i}" for i in range(3000)], (0.6, 0.15, 0.25)
    before, after = dealt(names[::2], fractions), dealt(names, fractions)
    for split, share in zip(("train", "val", "test"), fractions, strict=True):
        assert set(before[split]) <= set(after[split])
        assert len(after[split]) / 3000 == pytest.approx(share, abs=0.04)
    assert sorted(name for found in after.values() for name in found) == sorted(names)


def test_a_split_file_says_which_class_is_where(images):
    path = images / "splits.json"
    path.write_text(json.dumps({"train": ["class3", "class0"], "test": ["class5"]}))
    splits = opened(images, splits=str(path)).images.splits
    assert {k: v.tolist() for k, v in splits.items()} == {"train": [0, 3], "test": [5]}


@pytest.mark.parametrize(
    ("splits", "names"),
    [
        ({"train": ["class0", "gone"], "val": ["lost"]}, ["gone (train)", "lost (val)"]),
        ({"train": ["class0", "class1"], "val": ["class1"]}, ["class1 (train and val)"]),
        ({"train": ["class0", "class0"]}, ["class0 (train and train)"]),
        ({"training": ["class0"]}, ['{"train": [names]']),
        ({"train": "class0"}, ['{"train": [names]']),
        (["class0"], ['{"train": [names]']),
    ],
)
def test_a_split_file_that_does_not_fit_is_refused_by_name(images, tmp_path, splits, names):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(splits))
    with pytest.raises(ValueError, match="expected") as error:
        opened(images, splits=str(path))
    assert all(name in str(error.value) for name in names), str(error.value)


def test_everything_out_of_place_in_a_folder_is_named_at_once(images):
    (images / "empty").mkdir()
    (images / "class0" / "notes.txt").write_text("x")
    (images / "stray.png").write_bytes(png(0))
    made(images, ["group/deep"])
    (images / ".hidden").write_text("passed over")
    with pytest.raises(ValueError, match="expected") as error:
        opened(images)
    message = str(error.value)
    assert "no images in: empty" in message
    assert "class0/notes.txt, stray.png" in message
    assert "another depth: class0, " in message
    assert "hidden" not in message


def test_an_empty_class_folder_is_noticed_after_packing_too(images):
    opened(images)
    (images / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in: empty"):
        opened(images)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"splits": (0.5, 0.2, 0.2)}, "sum to 1"),
        ({"splits": "/no/such.json"}, "'/no/such.json', which is not a file"),
    ],
)
def test_options_that_make_no_sense_are_refused(images, kwargs, message):
    with pytest.raises(ValueError, match=message):
        opened(images, **kwargs)


def test_a_path_that_is_no_folder_and_one_without_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="which is not one"):
        opened(tmp_path / "missing")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="got no folders"):
        opened(tmp_path / "bare")
