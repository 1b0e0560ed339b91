"""Stored images, packs, and the facts of the environment."""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import everything, made, opened, packs, png
from PIL import Image

from metabox.data import pack as pack_module
from metabox.data.root import cache_folder, data_root
from metabox.tasks.images.folder import ClassFolder
from metabox.tasks.place import Place
from metabox.training.environment import collect_environment

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


@pytest.mark.cuda
@pytest.mark.parametrize("rotations", [False, True])
def test_tasks_are_the_same_bits_on_the_gpu(images, rotations):
    sampler = opened(images, rotations=rotations)
    here, there = (sampler.sample(Place(50, "train"), device) for device in ("cpu", "cuda"))
    assert there.query.x.is_cuda
    assert torch.equal(here.support.x, there.support.x.cpu())
    assert torch.equal(here.query.x, there.query.x.cpu())
    assert torch.equal(here.origin, there.origin.cpu())


def test_a_quarter_of_the_drawn_classes_is_turned_each_way(images):
    origin = opened(images, rotations=True).sample(Place(4000, "train")).origin[:, :2]
    counts = (origin % 4).flatten().bincount(minlength=4)
    assert (counts - 2000).abs().max() < 5 * (8000 * 3 / 16) ** 0.5


def test_samplers_of_one_set_share_its_images(images):
    a, b = opened(images), opened(images, n_way=3, rotations=True)
    assert a.images.pack is b.images.pack
    device = torch.device("cpu")
    assert a.images.pack.rows(device, True) is b.images.pack.rows(device, True)


def test_four_rotations_take_twice_the_memory_and_no_more_on_disk(images, cache):
    sampler = opened(images, rotations=True)
    sampler.sample(Place(1, "train"))
    stored = sampler.images.pack
    assert sum(copy.numel() for copy in stored.copies.values()) == 2 * stored.images.numel()
    assert len(packs(cache)) == 1


def test_images_that_are_not_square_are_not_turned(tmp_path):
    (tmp_path / "set" / "a").mkdir(parents=True)
    Image.linear_gradient("L").resize((4, 6)).save(tmp_path / "set" / "a" / "0.png")
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


def test_a_full_disk_is_reported_with_the_files_name_and_leaves_nothing_behind(images, cache, monkeypatch):
    def fail(path, *_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack_module, "_write", fail)
    with pytest.raises(OSError, match=r"could not write .*images-\w+\.safetensors: .*No space left on device"):
        opened(images)
    assert packs(cache) == []


def test_packers_at_the_same_time_do_not_disturb_each_other(images, cache, monkeypatch):
    monkeypatch.setattr(pack_module, "_open", {})
    together, read, found = threading.Barrier(4), pack_module._read_images, []

    def slow(*arguments):
        together.wait()
        return read(*arguments)

    monkeypatch.setattr(pack_module, "_read_images", slow)

    def pack() -> None:  # by load, since Python 3.10's cached_property lets one thread in at a time
        found.append(ClassFolder(str(images)).load().pack.images.clone())

    threads = [threading.Thread(target=pack, daemon=True) for _ in range(4)]
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


# Facts


def test_facts_tell_versions_and_machine_but_no_host_and_no_path():
    found = collect_environment()
    json.dumps(found)
    assert {"python", "torch", "numpy", "metabox", "cpu", "cores", "threads", "device", "git_commit"} <= set(found)
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["threads"] == torch.get_num_threads()
    text = json.dumps(found)
    assert os.uname().nodename not in text
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
