"""Packs: any damage is noticed, named, and mended by making the pack again; nothing is left over by who was killed."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import everything, made, opened, packs

from metabox.cli.main import main
from metabox.data import pack as pack_module
from metabox.data.pack import check_pack, check_packs


@pytest.fixture
def packed(cache: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A set with groups, and its pack."""
    folder = made(tmp_path / "set", ["a/one", "a/two", "b/three"], each=2, size=4)
    opened(folder)
    gc.collect()
    (path,) = packs(cache)
    return folder, path


def flipped(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_a_flip_of_any_bit_is_noticed_when_a_pack_is_opened(packed: tuple[Path, Path]) -> None:
    _, path = packed
    whole = path.read_bytes()
    check_pack(path)
    silent = []
    for bit in range(0, 8 * len(whole), 5):  # each byte, and each place in a byte
        flipped(path, bit)
        try:
            pack_module._read(path)
            silent.append(bit)
        except ValueError:
            pass
        path.write_bytes(whole)
    assert silent == []


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.8, 0.999, 1.2])
def test_a_pack_of_another_length_is_refused_before_it_is_mapped(packed: tuple[Path, Path], share: float) -> None:
    _, path = packed
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(ValueError, match=r"no header|header has changed|bytes, expected"):
        pack_module._read(path)


def replaced(path: Path, **changes: object) -> None:
    """The pack with other facts and a right hash: one that nobody here has written."""
    content = path.read_bytes()
    n = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:n])
    facts = json.loads(header["__metadata__"]["metabox"])
    header["__metadata__"]["metabox"] = json.dumps({**facts, **changes})
    text = json.dumps(header).encode()
    head = pack_module._own_hash(len(text).to_bytes(8, "little") + text)[0]
    path.write_bytes(head + content[n:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["one"]}, "classes that do not fit 1 names"),
        ({"class_names": 5}, "no pack"),
        ({"group_names": ["a"]}, "groups that do not fit"),
        ({"checksum": "00000000"}, "checksum"),
        ({"fingerprint": "0" * 16}, "its images have changed"),
    ],
)
def test_a_pack_that_contradicts_itself_is_refused(
    packed: tuple[Path, Path], changes: dict[str, object], message: str
) -> None:
    replaced(packed[1], **changes)
    with pytest.raises(ValueError, match=message):
        check_pack(packed[1])


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def other_facts(path: Path) -> None:
    replaced(path, class_names=["x", "y"])


@pytest.mark.parametrize(
    "damage",
    [lambda path: flipped(path, 300), lambda path: flipped(path, 8 * path.stat().st_size - 9), other_facts, pipe],
    ids=["header", "pixels", "facts", "pipe"],
)
def test_a_damaged_pack_is_made_again_with_one_warning(
    packed: tuple[Path, Path], damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder, path = packed
    before = everything(opened(folder)).clone()
    gc.collect()
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(everything(opened(folder)), before)
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]
    check_pack(path)


def test_images_beyond_the_checksum_are_compared_when_packed_and_by_a_check(
    packed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, path = packed
    path.unlink()
    monkeypatch.setattr(pack_module, "CHECKED", 10)
    opened(folder)
    gc.collect()
    flipped(path, 8 * path.stat().st_size - 9)
    pack_module._read(path)
    with pytest.raises(ValueError, match=r"fingerprint \w+, expected \w+: its images have changed"):
        check_pack(path)
    path.unlink()
    write = pack_module._write

    def lying(temporary: Path, *arguments: object) -> None:
        write(temporary, *arguments)  # type: ignore[arg-type]
        flipped(temporary, 8 * temporary.stat().st_size - 9)

    monkeypatch.setattr(pack_module, "_write", lying)
    with pytest.raises(ValueError, match=r"as it was just written, got .*its images have changed; check the disk"):
        opened(folder)


def test_the_check_command_names_each_damaged_pack(
    packed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = packed
    (path.parent / "notes.txt").write_text("no pack")
    assert main(["check"]) == 0
    assert "1 packs, all whole" in capsys.readouterr().out
    shutil.copy(path, path.with_name("other.safetensors"))
    flipped(path.with_name("other.safetensors"), 8 * path.stat().st_size - 9)
    path.with_name("old.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    assert main(["check", str(path.parent)]) == 2
    told = capsys.readouterr()
    assert f"{path}: whole" in told.out
    assert "expected whole packs, got 2 of 3 damaged" in told.err
    assert [path.name for path, complaint in check_packs().items() if not complaint] == [path.name]
    assert check_packs(str(path.parent / "nowhere")) == {}


KILLED = """
import os, signal, sys
from metabox.tasks import ClassFolder
from metabox.data import pack

def images(*_):
    import numpy as np
    yield np.zeros((1, 4, 4), np.uint8)
    os.kill(os.getpid(), signal.SIGKILL)

pack._read_images = images
ClassFolder(sys.argv[1], channels=1, n_way=1, n_shot=1, n_query=1).images
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_what_a_killed_packer_left_is_gone_when_a_pack_is_made_next(cache: Path, tmp_path: Path) -> None:
    folder = made(tmp_path / "set", ["one", "two"], size=4)
    root = str(Path(pack_module.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)], env={**os.environ, "PYTHONPATH": root}, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-1000:]
    assert [path.suffix for path in packs(cache)] == [".part"]
    assert np.asarray(everything(opened(folder))).shape == (8, 1, 4, 4)
    assert [path.suffix for path in packs(cache)] == [".safetensors"]
