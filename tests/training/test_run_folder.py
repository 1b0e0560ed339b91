"""The folder of a run: one owner, nothing written out of it, nothing lost and nothing left by a kill or a full disk."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toys import Signs, Toy

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
if sys.platform == "win32":
    pytest.skip("locks of folders, forks and limits need Unix", allow_module_level=True)
import harm

from metabox.cli.main import main
from metabox.files import write_text
from metabox.recipe import find
from metabox.training.loop import run
from metabox.training.run_folder import FILES, FOLDERS, owned
from metabox.training.settings import OuterLoop

QUICK = OuterLoop(
    steps=12, n_tasks=4, validate_every=4, n_validation=4, precision="32", warmup=2, average=0.9, accelerator="cpu"
)


def train(out: Path) -> object:
    return run(Signs(), Toy, QUICK, out=out)


@pytest.fixture(autouse=True, scope="module")
def _often() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metabox.training.loop.LOG_EVERY", 3)  # lines between checkpoints, too
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole")
    train(out)
    return out


def curve(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
        line.get("train", {}).pop("tasks_per_s", None)
    return lines


def check_as_if_nothing_had_happened(out: Path, whole: Path) -> None:
    files = ("best", "checkpoints/step-00000012/model", "checkpoints/step-00000012/average")
    for name in files:
        one, two = (load_file(folder / f"{name}.safetensors") for folder in (whole, out))
        assert all(torch.equal(one[key], two[key]) for key in one), name
    assert curve(out) == curve(whole)
    left, wanted = ({str(path.relative_to(f)) for path in f.rglob("*")} for f in (out, whole))
    assert {name for name in left ^ wanted if "tfevents" not in name} == set()


# ------------------------------------------------------------------------- owner


@pytest.fixture
def occupied(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder that another process owns, and that process."""
    folder = tmp_path / "run"
    come, go = os.pipe()

    def own() -> None:
        with owned(folder):
            os.write(go, b"!")
            signal.pause()

    with harm.quiet_fork():
        child = os.fork()
    if not child:
        own()
    os.read(come, 1)
    yield folder, child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_second_training_in_a_folder_is_refused_in_one_line_that_names_the_first(
    occupied: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, child = occupied
    before = sorted(folder.iterdir())
    says = f"got process {child} on {socket.gethostname()}"
    with pytest.raises(ValueError, match=says):
        train(folder)
    assert main(["train", "glyphs-5w1s-incontext", "--outer.n_tasks", "1", "--out", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    write_text(folder / "recipe.yaml", find("glyphs-5w1s-incontext").read_text())
    assert main(["evaluate", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert sorted(folder.iterdir()) == sorted([*before, folder / "recipe.yaml"])


def test_an_owner_that_was_killed_blocks_nobody(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"

    def die() -> None:
        with owned(out):
            os.kill(os.getpid(), signal.SIGKILL)

    assert harm.forked(die)[0] == -signal.SIGKILL
    assert (out / ".owner.json").exists()
    train(out)
    check_as_if_nothing_had_happened(out, whole)


def test_a_thread_may_own_a_folder_twice_and_another_thread_may_not(tmp_path: Path) -> None:
    errors: list[str] = []

    def other() -> None:
        try:
            with owned(tmp_path):
                pass
        except ValueError as error:
            errors.append(str(error))

    with owned(tmp_path):
        with owned(tmp_path):
            pass
        (thread := threading.Thread(target=other)).start()
        thread.join()
    other()
    assert len(errors) == 1
    assert f"process {os.getpid()}" in errors[0]


def test_a_process_that_does_not_write_owns_nothing(tmp_path: Path) -> None:
    with owned(tmp_path / "run", leads=False):
        assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------- links

HOLES: dict[str, Callable[[Path, Path], object]] = {
    **{f"link {name}": (lambda path, other, name=name: (path / name).symlink_to(other)) for name in (*FILES, *FOLDERS)},
    "link below": lambda path, other: ((path / "results").mkdir(), (path / "results" / "x").symlink_to(other)),
    "pipe metrics.jsonl": lambda path, _: os.mkfifo(path / "metrics.jsonl"),
    "file checkpoints": lambda path, _: (path / "checkpoints").write_text(""),
}


@pytest.mark.parametrize("hole", HOLES)
def test_nothing_is_written_through_a_link_or_a_pipe(tmp_path: Path, hole: str) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    HOLES[hole](folder, other)
    with pytest.raises(ValueError, match=r"expected a (file|folder) of the run in .*, got .*so remove it"):
        train(folder)
    assert list(other.iterdir()) == []


def test_what_else_lies_in_a_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("/")
    with owned(tmp_path):
        pass
    assert (tmp_path / "data").is_symlink()


# ------------------------------------------------------------------- kills and full disks


def test_a_run_that_is_killed_before_any_write_goes_on_and_leaves_nothing(tmp_path: Path, whole: Path) -> None:
    moments = harm.touches(lambda: train(tmp_path / "counted"), tmp_path / "counted")
    assert moments > 100
    for number in [*range(1, moments, moments // 16), moments]:
        out = tmp_path / str(number)
        assert harm.forked(harm.killed_at(lambda out=out: train(out), out, number))[0] == -signal.SIGKILL
        harm.forked(harm.killed_at(lambda out=out: train(out), out, 2 * number // 3))  # once more, or it ends first
        train(out)
        check_as_if_nothing_had_happened(out, whole)


@pytest.mark.parametrize("size", [0, 30, 100, 300, 700, 1000, 1500, 2000, 2800, 3500, 4000, 4500])
def test_a_full_disk_is_one_line_that_names_the_file_and_the_run_goes_on_once_there_is_room(
    tmp_path: Path, whole: Path, size: int
) -> None:
    out = tmp_path / "run"
    status, said = harm.forked(harm.with_disk_of(lambda: train(out), size))
    lines = [line for line in said.splitlines() if line and "step" not in line]
    assert status == harm.REFUSED, lines
    assert len(lines) == 1
    assert f"could not write {out}" in lines[0]
    assert "File too large" in lines[0]
    assert "MiB left" in lines[0]
    assert not list(out.rglob("*.part"))
    train(out)
    check_as_if_nothing_had_happened(out, whole)
