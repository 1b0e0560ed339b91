"""Readers of CelebA and NYUv2, on small made-up folders in their exact layouts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import SHORT
from PIL import Image
from torchvision.datasets import CelebA as Reader

from metabox.cli.main import main
from metabox.data.preprocessing import Preprocessing
from metabox.targets import Binary
from metabox.tasks.multitask import celeba, nyuv2

# CelebA

NAMES = ["Bald", "Eyeglasses", "Smiling"]
LABELS = {  # file: (torchvision's split, labels)
    "000001.jpg": (0, [1, -1, 1]),
    "000002.jpg": (0, [-1, -1, 1]),
    "000003.jpg": (1, [1, 1, 1]),
    "000004.jpg": (2, [-1, 1, -1]),
    "000005.jpg": (0, [-1, -1, -1]),
    "000006.jpg": (2, [1, 1, -1]),
    "000007.jpg": (1, [-1, 1, 1]),  # torchvision cannot read a split of one
}


@pytest.fixture
def faces(tmp_path, monkeypatch) -> Path:
    """A data root with a CelebA of seven faces, each of one colour and a brow, in the layout of the archives."""
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    for i, name in enumerate(LABELS):
        image = Image.new("RGB", (178, 218), (40 * i, 40 * i, 0))
        image.paste((40 * i + 9, 40 * i + 9, 0), (0, 0, 178, 60))
        image.save(folder / "img_align_celeba" / name, quality=95)
    rows = {
        "list_attr_celeba.txt": [str(len(LABELS)), " ".join(NAMES) + " "]
        + [f"{name} {' '.join(f'{label:2}' for label in labels)}" for name, (_, labels) in LABELS.items()],
        "list_eval_partition.txt": [f"{name} {split}" for name, (split, _) in LABELS.items()],
        "identity_CelebA.txt": [f"{name} {i}" for i, name in enumerate(LABELS)],
        "list_bbox_celeba.txt": [str(len(LABELS)), "image_id x_1 y_1 width height "]
        + [f"{name}    95  71  226  313" for name in LABELS],
        "list_landmarks_align_celeba.txt": [
            str(len(LABELS)),
            " ".join(
                f"{at}_{axis}" for at in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
            ),
        ]
        + [f"{name} {' '.join(['69'] * 10)}" for name in LABELS],
    }
    for name, lines in rows.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    # torchvision compares the lists with the hashes of the real ones.
    known = [(i, hashlib.md5((folder / n).read_bytes()).hexdigest(), n) for i, _, n in Reader.file_list if n in rows]
    monkeypatch.setattr(Reader, "file_list", known)
    return tmp_path


def test_the_forty_attributes_of_torchvisions_reader_become_labels_of_the_right_faces(faces):
    pack, labels, names = celeba.read(faces, Preprocessing(3, 8))
    assert names == NAMES
    assert pack.class_names == list(celeba.THEIR_SPLITS)
    assert pack.images.shape == (7, 3, 8, 8)
    order = ["000004.jpg", "000006.jpg", "000001.jpg", "000002.jpg", "000005.jpg", "000003.jpg", "000007.jpg"]
    grey = [round(float(image[0].float().mean()) / 40) for image in pack.images]
    assert [f"{g + 1:06}.jpg" for g in grey] == order, "test, train, valid"
    assert (labels * 2 - 1).int().tolist() == [LABELS[name][1] for name in order]


def test_faces_are_resized_as_they_are(faces):
    image = Image.new("RGB", (178, 218), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 178, 109))  # the upper half
    image.save(faces / "celeba" / "img_align_celeba" / "000001.jpg", quality=95)
    pack, _, _ = celeba.read(faces, Preprocessing(3, 16))
    face = pack.images[2, 0].float()
    assert face[:7].min() > 240
    assert face[9:].max() < 15


def test_without_the_files_the_error_says_how_to_get_them(tmp_path):
    with pytest.raises(ValueError, match="expected CelebA in") as error:
        celeba.read(tmp_path, Preprocessing(3, 8))
    for word in ("download=True", "img_align_celeba", "METABOX_DATA"):
        assert word in str(error.value)


def test_a_face_that_cannot_be_read_is_named(faces):
    (faces / "celeba" / "img_align_celeba" / "000003.jpg").write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"000003\.jpg"):
        celeba.read(faces, Preprocessing(3, 8))


# NYUv2


def example(i: int, size=(6, 8)):
    """Arrays of the preprocessed layout: float images of 0 ... 1, channels last."""
    random = np.random.default_rng(i)
    normal = random.normal(size=(*size, 3))
    return {
        "image": random.uniform(size=(*size, 3)),
        "label": random.integers(-1, 13, size).astype(float),
        "depth": random.uniform(0.5, 9.0, (*size, 1)),
        "normal": normal / np.linalg.norm(normal, axis=-1, keepdims=True),
    }


@pytest.fixture
def rooms(tmp_path) -> Path:
    for part, numbers in (("train", range(12)), ("val", range(3))):
        for i in numbers:
            for kind, array in example(i + 100 * (part == "val")).items():
                (tmp_path / "nyuv2" / part / kind).mkdir(parents=True, exist_ok=True)
                np.save(tmp_path / "nyuv2" / part / kind / f"{i}.npy", array)
    return tmp_path


def targets(y, size=(6, 8)):
    pixels = size[0] * size[1]
    return y[:pixels].view(size), y[pixels : 2 * pixels].view(size), y[2 * pixels :].view(3, *size)


def test_every_pixel_has_the_targets_of_its_files(rooms):
    x, y, _ = nyuv2.read(rooms, 1)
    assert x.dtype == torch.uint8
    assert x.shape == (15, 3, 6, 8)
    for row, wanted in ((0, example(0)), (11, example(11)), (12, example(100))):
        label, depth, normal = (t.numpy() for t in targets(y[row]))
        assert np.array_equal(np.nan_to_num(label, nan=-1), wanted["label"])
        assert depth == pytest.approx(wanted["depth"][..., 0], rel=1e-6)
        assert normal.transpose(1, 2, 0) == pytest.approx(wanted["normal"], rel=1e-5)
        assert np.abs(x[row].numpy().transpose(1, 2, 0) / 255 - wanted["image"]).max() <= 0.5 / 255 + 1e-9


def test_what_the_sensor_did_not_see_is_a_missing_label(rooms):
    holes = example(0)
    holes["depth"][2, 3], holes["normal"][4, 5], holes["label"][0, 1] = 0, 0, -1
    holes["normal"][1, 1] = [0.6, -0.6, 0.0]  # sums to zero, and is a direction all the same
    for kind, array in holes.items():
        np.save(rooms / "nyuv2" / "train" / kind / "0.npy", array)
    label, depth, normal = targets(nyuv2.read(rooms, 1)[1][0])
    assert depth.isnan().nonzero().tolist() == [[2, 3]]
    assert normal.isnan().all(0).nonzero().tolist() == normal.isnan().any(0).nonzero().tolist() == [[4, 5]]
    assert label.isnan()[0, 1]
    assert label.isnan().sum() == (holes["label"] < 0).sum()


def test_val_is_the_test_split_and_every_tenth_of_train_is_for_validation(rooms):
    _, _, splits = nyuv2.read(rooms, 1)
    assert splits.tolist() == ["train"] * 9 + ["val"] + ["train"] * 2 + ["test"] * 3


def test_shrinking_takes_the_mean_of_an_image_and_the_middle_of_a_label(rooms):
    x, y, _ = nyuv2.read(rooms, 2)
    assert x.shape == (15, 3, 3, 4)
    wanted = example(0)
    assert x[0, 1, 0, 0] == round(255 * wanted["image"][:2, :2, 1].mean())
    _, depth, normal = targets(y[0], (3, 4))
    assert depth.numpy() == pytest.approx(wanted["depth"][1::2, 1::2, 0], rel=1e-6)
    assert normal[:, 2, 3].numpy() == pytest.approx(wanted["normal"][5, 7], rel=1e-5)


def test_missing_files_and_wrong_shapes_are_named(rooms, tmp_path):
    with pytest.raises(ValueError, match=r"METABOX_DATA"):
        nyuv2.read(tmp_path / "elsewhere", 1)
    (rooms / "nyuv2" / "train" / "depth" / "7.npy").unlink()
    with pytest.raises(ValueError, match=r"train/depth/7\.npy"):
        nyuv2.read(rooms, 1)
    np.save(rooms / "nyuv2" / "train" / "depth" / "7.npy", np.zeros((6, 8)))
    with pytest.raises(ValueError, match=r"depth/7\.npy of shape \(6, 8, 1\)"):
        nyuv2.read(rooms, 1)


def test_a_file_that_holds_code_is_refused(rooms):
    np.save(rooms / "nyuv2" / "val" / "label" / "1.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"an array of numbers in .*entries of type object"):
        nyuv2.read(rooms, 1)


# Both, as tasks


def test_faces_have_the_splits_and_the_attributes_that_were_asked_for(faces):
    rows = celeba.CelebA(8, attributes=["Smiling", "Bald"], data_root=str(faces)).load()
    assert rows.split.tolist() == ["test"] * 2 + ["train"] * 3 + ["val"] * 2
    assert rows.y[2].tolist() == [1, 1]  # face 1 smiles, and is bald
    assert rows.y[6].tolist() == [1, 0]
    assert rows.spec.target == Binary(2)
    assert [part.name for part in celeba.CelebA(8, parts=True, data_root=str(faces)).load().spec.target.parts] == NAMES
    with pytest.raises(ValueError, match=r"among .*got Hat"):
        celeba.CelebA(8, attributes=["Hat"], data_root=str(faces)).load()


def test_rooms_have_the_parts_of_scene_understanding(rooms):
    loaded = nyuv2.NYUv2(shrink=2, weights=(1.0, 0.5, 2.0), data_root=str(rooms)).load()
    assert [(p.name, p.size, p.spatial, p.weight) for p in loaded.spec.target.parts] == [
        ("segmentation", 13, (3, 4), 1.0),
        ("depth", 1, (3, 4), 0.5),
        ("normals", 3, (3, 4), 2.0),
    ]
    assert loaded.y.shape == (15, loaded.spec.target.size)
    assert loaded.x.shape == (15, *loaded.spec.x_shape)


def test_the_recipe_of_faces_takes_a_step_on_them(faces, tmp_path):
    assert main(["train", "celeba-parts-dense", *SHORT, "--data-root", str(faces), "--out", str(tmp_path / "run")]) == 0


def test_the_recipe_of_rooms_takes_a_step_in_them(tmp_path):
    for part in ("train", "val"):
        for i in range(11):
            for kind, array in example(i, (48, 64)).items():
                (tmp_path / "nyuv2" / part / kind).mkdir(parents=True, exist_ok=True)
                np.save(tmp_path / "nyuv2" / part / kind / f"{i}.npy", array)
    assert main(["train", "nyuv2-dense", *SHORT, "--data-root", str(tmp_path), "--out", str(tmp_path / "run")]) == 0
