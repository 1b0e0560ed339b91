"""The published image sets: made-up small ones in their exact layouts, and CIFAR-FS and FC100 themselves."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import everything
from PIL import Image

from metabox.discover import subclasses
from metabox.tasks import CIFARFS, CUB, FC100, MiniImageNet, TieredImageNet
from metabox.tasks.images import published
from metabox.tasks.place import Place

EACH = 3  # images of a class
WNIDS = {"train": ["n00000003", "n00000001"], "val": ["n00000002"], "test": ["n00000004"]}
SETS = [found.load() for found in subclasses("PublishedImages")]


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


ALL = [name for names in WNIDS.values() for name in names]


# miniImageNet


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


# tieredImageNet


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


# CUB


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


# CIFAR-FS and FC100


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


# All of them


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


# The real ones


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
