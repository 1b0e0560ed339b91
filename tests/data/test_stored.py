"""Sets that stay in their file give the same episodes as those on the device."""

from __future__ import annotations

import pytest
import torch
from made_up import everything, made, opened

from metabox.data import pack, stored
from metabox.tasks import Prefetch
from metabox.tasks.images.folder import ClassFolder
from metabox.tasks.place import Place

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("rotations", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_episodes_from_the_file_are_the_same_bits(tmp_path, rotations, device):
    path = made(tmp_path / "set", [f"c{i}" for i in range(5)], channels=3, size=7)
    inside, outside = (opened(path, channels=3, rotations=rotations, on_device=where) for where in (True, False))
    for index in range(3):
        a, b = (s.sample(Place(8, "train", index=index), device) for s in (inside, outside))
        assert torch.equal(a.support.x, b.support.x)
        assert torch.equal(a.query.x, b.query.x)
        assert a.support.x.device.type == device
    assert inside.identity() == outside.identity()


def test_a_set_left_in_its_file_makes_no_copy(images):
    sampler = opened(images, rotations=True, on_device=False)
    before = everything(sampler).clone()
    assert not sampler.images.pack.copies
    everything(sampler).zero_()
    assert torch.equal(everything(sampler), before), "and what was gathered is no view of it"


@pytest.mark.parametrize(("room", "kept"), [(6 * 4 * 64 * 2, True), (6 * 4 * 64 * 2 - 1, False)])
def test_a_set_goes_to_the_device_where_there_is_room_for_it_and_its_rotations(images, monkeypatch, room, kept):
    monkeypatch.setattr(pack, "_open", {})
    monkeypatch.setattr(stored, "ROOM", room)
    sampler = opened(images, rotations=True)
    everything(sampler)
    assert bool(sampler.images.pack.copies) is kept


@pytest.mark.parametrize(("share", "kept"), [(2, True), (1.9, False)])
def test_on_cuda_half_of_what_is_free_is_room(images, monkeypatch, share, kept):
    sampler = ClassFolder(str(images), channels=1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(6 * 4 * 64 * share), 10**9))
    assert sampler.images._on_device(torch.device("cuda", 0)) is kept


def test_a_set_in_its_file_can_be_prefetched(images):
    ahead = Prefetch(opened(images, on_device=False))
    plain = opened(images, on_device=True)
    for index in range(5):
        assert torch.equal(
            ahead.sample(Place(3, "train", index=index)).query.x, plain.sample(Place(3, "train", index=index)).query.x
        )


def test_a_pack_is_written_and_checked_where_it_is_larger_than_what_the_checksum_covers(images, cache, monkeypatch):
    monkeypatch.setattr(pack, "CHECKED", 100)
    first = everything(opened(images)).clone()
    assert torch.equal(everything(opened(images)), first)
    monkeypatch.setattr(pack, "_open", {})
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    content[-6 * 4 * 64 + 50] ^= 1  # among the first 100 bytes of images
    path.write_bytes(content)
    assert torch.equal(everything(opened(images)), first), "made again"
