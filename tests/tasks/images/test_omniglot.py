"""Omniglot: a made-up set in its layout, and the real one."""

from __future__ import annotations

import gc
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import everything, png
from PIL import Image

from metabox.tasks.images import omniglot as omniglot_module
from metabox.tasks.images.omniglot import Omniglot

# Omniglot, on a made-up set of the same layout


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A data root with an Omniglot of 2 + 1 characters in zip archives."""
    names = {
        "images_background": ["images_background/Latin/character01", "images_background/Greek/character01"],
        "images_evaluation": ["images_evaluation/Tengwar/character01"],
    }
    splits = tmp_path / "splits"
    splits.mkdir()
    listed = json.dumps(dict(zip(("train", "val", "test"), [[n] for v in names.values() for n in v], strict=True)))
    for protocol in ("vinyals", "lake"):
        (splits / f"omniglot_{protocol}.json").write_text(listed)
    monkeypatch.setattr(omniglot_module, "CLASS_LISTS", splits)
    monkeypatch.setattr(omniglot_module, "CHARACTERS", {part: len(found) for part, found in names.items()})
    (tmp_path / "data" / "omniglot").mkdir(parents=True)
    for part, found in names.items():
        with zipfile.ZipFile(tmp_path / "data" / "omniglot" / f"{part}.zip", "w") as archive:
            for c, name in enumerate(found):
                for i in range(20):
                    archive.writestr(f"{name}/{i:04}.png", drawing(c, i))
    return tmp_path / "data"


def drawing(c: int, i: int) -> bytes:
    """105x105, one bit, black ink on white: a bar of five columns."""
    pixels = np.ones((105, 105), dtype=bool)
    pixels[:, 5 * i : 5 * i + 5] = c == 1
    pixels[0] = False
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def extract(root: Path, into: str) -> None:
    for part in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(root / "omniglot" / f"{part}.zip") as archive:
            archive.extractall(root / into)


def small_omniglot(root: Path, **kwargs) -> Omniglot:
    return Omniglot(**({"data_root": str(root), "n_way": 1, "n_query": 1} | kwargs))


def test_zip_archives_and_folders_in_either_place_are_the_same_set(small):
    zipped = small_omniglot(small)
    wanted, fingerprint = everything(zipped).clone(), zipped.fingerprint()
    extract(small, "omniglot-py")
    for archive in (small / "omniglot").iterdir():
        archive.unlink()
    found = small_omniglot(small)
    assert torch.equal(everything(found), wanted)
    assert found.fingerprint() == fingerprint


def test_ink_is_255_on_0_and_a_grey_level_is_the_share_of_ink(small):
    sampler = small_omniglot(small, rotations=False)
    # Greek (the first by name) has the bar in white, so no ink but the top row; Latin has five inked columns.
    greek, latin = (sampler.images.gather(np.array([c]), np.array([3]), "cpu")[0, 0].float() for c in (0, 1))
    assert set(greek[0].tolist()) <= {round(255 / 4), round(255 / 3)}, "one of 3 or 4 rows is inked"
    assert greek[1:].max() == 0
    assert latin[1:].sum() / 27 == pytest.approx(255 * 5 / 3.75, rel=0.1)
    assert latin[1:].max() == 255


def test_alphabets_are_groups_and_rotations_make_them_four(small):
    assert small_omniglot(small, rotations=False).images.groups.tolist() == [0, 1, 2]
    turned = small_omniglot(small).images
    assert turned.groups.tolist() == list(range(12))
    assert {k: v.tolist() for k, v in turned.splits.items()} == {
        "train": [4, 5, 6, 7],
        "val": [0, 1, 2, 3],
        "test": [8, 9, 10, 11],
    }


def test_wrong_counts_are_reported_by_name_all_at_once(small):
    extract(small, "omniglot")
    for archive in (small / "omniglot").glob("*.zip"):
        archive.unlink()
    (small / "omniglot" / "images_background" / "Latin" / "character01" / "0003.png").unlink()
    for file in (small / "omniglot" / "images_evaluation" / "Tengwar" / "character01").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="expected 2 characters in images_background") as error:
        assert small_omniglot(small).images
    assert "19 drawings in images_background/Latin/character01" in str(error.value)
    assert "0 characters in images_evaluation instead of 1" in str(error.value)
    assert "no images_evaluation/Tengwar/character01" in str(error.value)


def test_an_archive_entry_with_a_path_outside_is_refused_and_never_written(small, tmp_path):
    with zipfile.ZipFile(small / "omniglot" / "images_background.zip", "a") as archive:
        archive.writestr("__MACOSX/images_background/Latin/character01/._0001.png", b"rubbish")
    assert len(everything(small_omniglot(small, rotations=False))) == 3 * 20, "hidden ones are passed over"
    with zipfile.ZipFile(small / "omniglot" / "images_background.zip", "a") as archive:
        archive.writestr("x/../../outside.png", png(0))
    with pytest.raises(ValueError, match="a name that leads elsewhere: 'x/"):
        everything(small_omniglot(small, rotations=False))
    assert not list(tmp_path.rglob("outside.png"))


def test_a_broken_archive_is_named(small):
    (small / "omniglot" / "images_evaluation.zip").write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"expected a zip archive, got .*images_evaluation\.zip"):
        assert small_omniglot(small).images


def test_without_data_and_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.Omniglot", offline)
    with pytest.raises(ValueError, match="no route to host") as error:
        assert Omniglot(data_root=str(tmp_path)).images
    for name in ("--data-root", "METABOX_DATA", "images_background/<Alphabet>", "metabox train glyphs-5w1s-incontext"):
        assert name in str(error.value)


def test_what_is_missing_is_downloaded_once(small, tmp_path, monkeypatch):
    asked = []

    def download(root, background, download):
        asked.append((background, download))
        for archive in (small / "omniglot").iterdir():
            target = Path(root) / "omniglot-py" / archive.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(archive.read_bytes())

    monkeypatch.setattr("torchvision.datasets.Omniglot", download)
    (tmp_path / "other").mkdir()
    for _ in range(2):
        assert len(small_omniglot(tmp_path / "other").images.sizes) == 12
    assert asked == [(True, True), (False, True)]


@pytest.mark.parametrize(("kwargs", "message"), [({"split": "ravi"}, "'ravi'"), ({"image_size": 0}, "at least 1")])
def test_omniglots_options_are_checked(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Omniglot(**kwargs)


# Omniglot itself


@pytest.mark.parametrize(
    ("split", "characters"), [("vinyals", (1028, 172, 423)), ("lake", (781, 183, 659))], ids=["vinyals", "lake"]
)
def test_the_splits_of_omniglot_are_disjoint_and_whole(omniglot_root, split, characters):
    images = Omniglot(split=split, data_root=omniglot_root, rotations=False).images
    classes = [images.splits[s] for s in ("train", "val", "test")]
    assert tuple(map(len, classes)) == characters
    assert np.array_equal(np.sort(np.concatenate(classes)), np.arange(1623))
    assert (images.sizes == 20).all()
    assert len(np.unique(images.groups)) == 50
    assert images.fingerprint == "052b012acfa29750"
    if split == "lake":
        alphabets = [set(images.groups[c]) for c in classes]
        assert list(map(len, alphabets)) == [25, 5, 20]
        assert not alphabets[0] & alphabets[1] | alphabets[1] & alphabets[2] | alphabets[0] & alphabets[2]


def test_a_last_training_has_all_background_alphabets_and_none_of_the_test(omniglot_root):
    images = Omniglot(split="lake-whole", data_root=omniglot_root, rotations=False).images
    train, val, test = (set(images.splits[s].tolist()) for s in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (964, 0, 659)
    assert not train & test
    assert len(set(images.groups[list(train)])) == 30


def test_opening_packed_omniglot_decodes_nothing(omniglot_root, monkeypatch):
    packed = Omniglot(data_root=omniglot_root).images.fingerprint
    gc.collect()  # so that it is opened again

    def decode(*_args, **_kwargs):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(Image, "open", decode)
    images = Omniglot(data_root=omniglot_root).images
    assert (len(images.sizes), images.fingerprint) == (4 * 1623, packed)


def test_the_smallest_and_the_largest_image_of_omniglot_look_like_drawings(omniglot_root):
    pixels = everything(Omniglot(data_root=omniglot_root, rotations=False)).flatten(1).float()
    assert pixels.amax(1).min() > 80, "every drawing has ink"
    assert pixels.mean(1).max() < 90, "and more paper than ink"
