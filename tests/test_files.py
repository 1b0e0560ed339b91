"""Files that are written whole: what a killed writer leaves is found, what a living one writes is left alone."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from metabox.files import append, remove_orphans, write_atomically, write_text

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks of folders need fcntl")


def in_a_child(write: Callable[[], object]) -> int:
    """Run `write` in a forked process, and return the signal that ended it."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python 3.12 warns of threads; the child has none to wait for
        child = os.fork()
    if child == 0:
        write()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_writer_left_is_removed_and_the_old_file_stays(tmp_path: Path) -> None:
    write_text(tmp_path / "kept", "old")

    def half(temporary: Path) -> None:
        temporary.write_text("ne")
        temporary.with_suffix(".helper").write_text("libraries have temporary files of their own")
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_child(lambda: write_atomically(tmp_path / "kept", half)) == signal.SIGKILL
    assert len(names(tmp_path)) == 2
    assert len(remove_orphans(tmp_path)) == 1
    assert names(tmp_path) == ["kept"]
    assert (tmp_path / "kept").read_text() == "old"


def test_a_file_that_is_being_written_is_no_orphan(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text("new")
        assert remove_orphans(tmp_path) == []
        assert in_a_child(lambda: os._exit(len(remove_orphans(tmp_path)))) == 0

    write_atomically(tmp_path / "kept", write)
    assert names(tmp_path) == ["kept"]
    assert (tmp_path / "kept").read_text() == "new"


def test_a_link_that_is_named_like_a_temporary_is_left_alone(tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    write_text(elsewhere / "mine", "text")
    (run := tmp_path / "run").mkdir()
    (run / ".x.y.part").symlink_to(elsewhere)
    assert remove_orphans(run) == []
    assert names(elsewhere) == ["mine"]


def test_a_symbolic_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    write_text(tmp_path / "target", "theirs")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "ours")
    assert (tmp_path / "target").read_text() == "theirs"
    assert not (tmp_path / "link").is_symlink()


def test_what_does_not_fit_is_not_appended_in_part_and_nothing_through_a_link(tmp_path: Path) -> None:
    import resource

    append(tmp_path / "log", b"one\n")
    before, no_more = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, no_more))
    try:
        with pytest.raises(OSError, match=r"could not write .*log: File too large; check the disk, which has .* MiB"):
            append(tmp_path / "log", b"two\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, no_more))
    assert (tmp_path / "log").read_bytes() == b"one\n"
    (tmp_path / "link").symlink_to(tmp_path / "log")
    with pytest.raises(OSError, match=r"could not write .*link"):
        append(tmp_path / "link", b"two\n")
    assert (tmp_path / "log").read_bytes() == b"one\n"
