"""Stored images, packs, class folders and Omniglot."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from metabox.data import omniglot as omniglot_module
from metabox.data import pack as pack_module
from metabox.data.folder import ClassFolder, split_by_hash
from metabox.data.omniglot import Omniglot
from metabox.data.root import cache_folder, data_root
from metabox.environment import facts

ALL_TRAIN = (1.0, 0.0, 0.0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache for each test, since they damage it."""
    monkeypatch.setenv("METABOX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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


@pytest.fixture
def images(tmp_path):
    return made(tmp_path / "images", [f"class{c}" for c in range(6)])


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


# Stored images


def test_gather_brings_the_pixels_of_the_files(images):
    wanted = [np.asarray(Image.open(f)) for c in sorted(images.iterdir()) for f in sorted(c.iterdir())]
    assert torch.equal(everything(opened(images)), torch.from_numpy(np.stack(wanted))[:, None])


@pytest.mark.parametrize("size", [3, 6, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_rotations_are_exact_and_make_four_classes_of_one(tmp_path, size, channels):
    path = made(tmp_path / "set", ["b/y", "a/x", "a/z"], size=size, channels=channels)
    plain, turned = (opened(path, channels=channels, rotations=r) for r in (False, True))
    upright = everything(plain).unflatten(0, (3, 4))
    wanted = torch.stack([torch.rot90(upright, k, (-2, -1)) for k in range(4)], 1).flatten(0, 2)
    assert torch.equal(everything(turned), wanted)
    assert turned.images.groups.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7]
    assert turned.images.class_name(6) == "a/z at 180 degrees"
    classes, items = np.repeat(np.arange(12), 4), np.tile(np.arange(4), 12)
    assert len(np.unique(turned.images.ids(classes, items))) == 48
    assert len(np.unique(plain.images.ids(classes[:12], items[:12]))) == 12
    assert plain.images.fingerprint == turned.images.fingerprint


def test_a_quarter_of_the_drawn_classes_is_turned_each_way(images):
    origin = opened(images, rotations=True).sample(0, 4000, split="train").origin[:, :2]
    counts = (origin % 4).flatten().bincount(minlength=4)
    assert (counts - 2000).abs().max() < 5 * (8000 * 3 / 16) ** 0.5


def test_samplers_of_one_set_share_its_images(images):
    a, b = opened(images), opened(images, n_way=3, rotations=True)
    assert a.images.pack is b.images.pack
    device = torch.device("cpu")
    assert a.images.pack.pixels(device, True) is b.images.pack.pixels(device, True)


def test_four_rotations_take_twice_the_memory_and_no_more_on_disk(images, cache):
    sampler = opened(images, rotations=True)
    sampler.sample(0, 1, split="train")
    stored = sampler.images.pack
    assert sum(copy.numel() for copy in stored.copies.values()) == 2 * stored.images.numel()
    assert len(packs(cache)) == 1


def test_images_that_are_not_square_are_not_turned(tmp_path):
    (tmp_path / "set" / "a").mkdir(parents=True)
    Image.new("L", (4, 6)).save(tmp_path / "set" / "a" / "0.png")
    with pytest.raises(ValueError, match="square images to rotate, got 6x4; set image_size"):
        opened(tmp_path / "set", rotations=True)


# Packs


def test_a_set_is_packed_once_and_opened_after_that(images, cache, monkeypatch):
    first = everything(opened(images)).clone()
    (path,) = packs(cache)
    made_at = path.stat().st_mtime_ns
    gc.collect()
    monkeypatch.setattr(pack_module, "_read_images", lambda *_: pytest.fail("packed twice"))
    assert torch.equal(everything(opened(images)), first)
    assert packs(cache) == [path]
    assert path.stat().st_mtime_ns == made_at


def test_a_changed_file_or_option_makes_another_pack(images, cache):
    before = opened(images).images.fingerprint
    (images / "class0" / "0.png").write_bytes(png(999))
    assert opened(images).images.fingerprint != before
    opened(images, image_size=5)
    assert len(packs(cache)) == 3


def test_the_fingerprint_is_of_names_and_pixels_not_of_files(images, tmp_path):
    copy = tmp_path / "elsewhere" / "copy"
    for source in images.rglob("*.png"):
        target = copy / source.parent.name / f"renamed-{source.stem}.bmp"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(source).save(target)
    assert opened(copy).images.fingerprint == opened(images).images.fingerprint
    (copy / "class0").rename(copy / "class9")
    assert opened(copy).images.fingerprint != opened(images).images.fingerprint


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)


def flip_in_the_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20] ^= 4
    path.write_bytes(content)


def drop_the_metadata(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({k: v.clone() for k, v in load_file(path).items()}, path)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        flip_in_the_header,
        drop_the_metadata,
        lambda path: os.truncate(path, path.stat().st_size - 50),
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: os.truncate(path, 3),
        lambda path: path.write_bytes(b""),
    ],
    ids=["bit flip", "header", "metadata", "truncated", "half", "stub", "empty"],
)
def test_a_damaged_pack_is_noticed_and_rebuilt_with_one_warning(images, cache, caplog, damage):
    first = everything(opened(images)).clone()
    gc.collect()
    (path,) = packs(cache)
    damage(path)
    with caplog.at_level(logging.WARNING):
        again = opened(images)
    assert torch.equal(everything(again), first)
    assert [r.getMessage() for r in caplog.records if "is damaged" in r.getMessage() and str(path) in r.getMessage()]
    assert len(caplog.records) == 1
    del again
    gc.collect()
    caplog.clear()
    opened(images)
    assert not caplog.records, "the rebuilt pack is whole"


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_a_full_disk_is_reported_with_the_files_name_and_leaves_nothing_behind(images, cache, monkeypatch, error):
    def fail(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr(pack_module, "save_file", fail)
    with pytest.raises(OSError, match=r"could not write .*images-\w+\.safetensors: .*No space left on device"):
        opened(images)
    assert packs(cache) == []


def test_packers_at_the_same_time_do_not_disturb_each_other(images, cache, monkeypatch):
    monkeypatch.setattr(pack_module, "_open", {})
    together, read, found = threading.Barrier(4), pack_module._read_images, []

    def slow(*arguments):
        together.wait(timeout=30)
        return read(*arguments)

    monkeypatch.setattr(pack_module, "_read_images", slow)

    def pack() -> None:  # by load, since Python 3.10's cached_property lets one thread in at a time
        found.append(ClassFolder(str(images)).load().pack.images.clone())

    threads = [threading.Thread(target=pack) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(f, found[0]) for f in found)
    assert len(packs(cache)) == 1


def test_all_unreadable_images_are_named_at_once(images, cache):
    for c in range(6):
        for i in (1, 3):
            (images / f"class{c}" / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="readable images of one shape, got 12") as error:
        opened(images)
    assert "class0/1.png" in str(error.value)
    assert "class4/3.png" in str(error.value)
    assert "and 2 more" in str(error.value)
    assert not cache.exists() or packs(cache) == []


def test_images_of_different_sizes_are_named_and_can_be_resized(images):
    (images / "class1" / "0.png").write_bytes(png(5, size=9))
    with pytest.raises(ValueError, match=r"class1/0.png \(shape \[1, 9, 9\], others have \[1, 8, 8\]\)"):
        opened(images)
    assert opened(images, image_size=6).images.image_shape == (1, 6, 6)


def test_where_packs_and_data_are_is_argument_then_variable_then_default(monkeypatch, tmp_path):
    monkeypatch.setenv("METABOX_CACHE", "/from/variable")
    assert cache_folder("/from/argument") == Path("/from/argument")
    assert cache_folder() == Path("/from/variable")
    monkeypatch.delenv("METABOX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/metabox")
    monkeypatch.delenv("METABOX_DATA", raising=False)
    assert data_root() == Path("/xdg/metabox/data")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_root() == Path.home() / ".cache" / "metabox" / "data"
    monkeypatch.setenv("METABOX_DATA", str(tmp_path))
    assert data_root() == tmp_path
    with pytest.raises(ValueError, match=r"'/nowhere/at/all'.*--data-root.*METABOX_DATA"):
        data_root("/nowhere/at/all")


# Class folders


def test_nested_folders_are_groups(tmp_path):
    sampler = opened(made(tmp_path / "set", ["b/one", "a/one", "a/two", "b/two"]), within_groups=True)
    assert sampler.images.groups.tolist() == [0, 0, 1, 1]
    assert sampler.images.class_name(2) == "b/one"
    rows = sampler.sample(0, 50, split="train").origin // 4
    assert ((rows // 2) == (rows // 2)[:, :1]).all()


def test_grey_images_are_read_as_rgb_and_colour_as_grey(images, tmp_path):
    assert opened(images, channels=3).images.image_shape == (3, 8, 8)
    colour = made(tmp_path / "colour", ["a"], channels=3)
    assert opened(colour).images.image_shape == (1, 8, 8)
    pixels = np.asarray(Image.open(colour / "a" / "0.png"))
    assert torch.equal(everything(opened(colour, channels=3))[0], torch.from_numpy(pixels.transpose(2, 0, 1).copy()))


def test_a_new_class_never_moves_another_one_between_splits():
    names, fractions = [f"class {i}" for i in range(3000)], (0.6, 0.15, 0.25)
    before, after = split_by_hash(names[::2], fractions), split_by_hash(names, fractions)
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
        ({"channels": 2}, "channels 1"),
        ({"image_size": 0}, "image_size of at least 1"),
        ({"splits": (0.5, 0.2, 0.2)}, "sum to 1"),
        ({"splits": (1.5, -0.5, 0.0)}, "sum to 1"),
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
    monkeypatch.setattr(omniglot_module, "SPLITS", splits)
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


def test_an_archive_entry_with_a_path_outside_is_never_written(small, tmp_path):
    with zipfile.ZipFile(small / "omniglot" / "images_background.zip", "a") as archive:
        archive.writestr("../../outside.png", png(0))
        archive.writestr("__MACOSX/images_background/Latin/character01/._0001.png", b"rubbish")
        archive.writestr("x/../../outside.png", png(0))
    with pytest.raises(ValueError, match="3 characters in images_background instead of 2"):
        assert small_omniglot(small).images
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
def test_the_splits_of_omniglot_are_disjoint_and_whole(omniglot_root, monkeypatch, tmp_path_factory, split, characters):
    monkeypatch.setenv("METABOX_CACHE", str(tmp_path_factory.getbasetemp() / "omniglot-packs"))
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


def test_opening_packed_omniglot_takes_less_than_a_fifth_of_a_second(omniglot_root, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("METABOX_CACHE", str(tmp_path_factory.getbasetemp() / "omniglot-packs"))
    times = []
    for _ in range(4):
        gc.collect()
        start = time.perf_counter()
        sampler = Omniglot(data_root=omniglot_root)
        assert len(sampler.images.sizes) == 4 * 1623
        times.append(time.perf_counter() - start)
        del sampler
    assert min(times[1:]) < 0.2


def test_the_smallest_and_the_largest_image_of_omniglot_look_like_drawings(
    omniglot_root, monkeypatch, tmp_path_factory
):
    monkeypatch.setenv("METABOX_CACHE", str(tmp_path_factory.getbasetemp() / "omniglot-packs"))
    pixels = everything(Omniglot(data_root=omniglot_root, rotations=False)).flatten(1).float()
    assert pixels.amax(1).min() > 80, "every drawing has ink"
    assert pixels.mean(1).max() < 90, "and more paper than ink"


# Facts


def test_facts_tell_versions_and_machine_but_no_host_and_no_path():
    found = facts()
    json.dumps(found)
    assert {"python", "torch", "numpy", "metabox", "cpu", "cores", "threads", "device", "git_commit"} <= set(found)
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["threads"] == torch.get_num_threads()
    text = json.dumps(found)
    assert os.uname().nodename not in text
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
