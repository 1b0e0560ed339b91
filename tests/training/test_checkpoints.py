"""Files are whole or not there, a damaged checkpoint gives way to the one before it, and nothing read runs code.

The walk over the package (`metabox.discover`) reads files too: its tests are at the end.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from metabox.files import read_json, write_atomically, write_json, write_text
from metabox.learners.lstm import LSTM
from metabox.tensors import load_tensors, load_weights, save_tensors
from metabox.testing import SPECS, build, make_episodes
from metabox.training.checkpoints import Checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------- files


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("made up"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_the_old_file_and_no_temporary(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")

    def half(temporary: Path) -> None:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


def test_a_failed_write_names_the_file(tmp_path: Path) -> None:
    def full(temporary: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"could not write .*result\.json: No space left on device; check"):
        write_atomically(tmp_path / "result.json", full)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"could not write .*file/below: .*; check the folder"):
        write_text(tmp_path / "file" / "below", "text")


def test_a_written_file_has_the_usual_permissions_and_its_folders_are_made(tmp_path: Path) -> None:
    path, usual = tmp_path / "a" / "b" / "text", tmp_path / "usual"
    write_text(path, "é")
    usual.write_text("é", encoding="utf-8")
    assert path.read_bytes() == usual.read_bytes()
    assert path.stat().st_mode == usual.stat().st_mode
    assert names(path.parent) == ["text"]


def test_json_comes_back_and_what_is_not_json_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "facts.json", {"step": 3, "best": None, "values": [0.1, 2.0]})
    assert read_json(tmp_path / "facts.json") == {"step": 3, "best": None, "values": [0.1, 2.0]}
    write_text(tmp_path / "facts.json", '{"step": ')
    with pytest.raises(ValueError, match=r"expected JSON in .*facts\.json, got something else"):
        read_json(tmp_path / "facts.json")


# ----------------------------------------------------------------------- tensors


def test_tensors_and_facts_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {
        "w": torch.randn(3, 4),
        "rough": torch.randn(2).bfloat16(),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "nothing": torch.zeros(2, 0, 3),
        "strided": torch.arange(6).view(2, 3).T,
        "learned": nn.Parameter(torch.ones(2)),
    }
    save_tensors(tmp_path / "t.safetensors", tensors, step=3, learner="CNP")
    loaded, facts = load_tensors(tmp_path / "t.safetensors")
    assert facts == {"step": "3", "learner": "CNP"}
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_a_slice_of_a_phi_can_be_saved(tmp_path: Path) -> None:
    whole = torch.randn(4, 2, 6)
    key, value = whole[1:2].chunk(2, -1)
    save_tensors(tmp_path / "phi.safetensors", {"key": key, "value": value, "part": whole[2:]})
    assert torch.equal(load_tensors(tmp_path / "phi.safetensors")[0]["value"], whole[1:2, :, 3:])


def test_the_state_of_an_lstm_that_has_read_nothing_can_be_saved(tmp_path: Path) -> None:
    spec = SPECS["classes of vectors"]
    phi = build(LSTM, spec).adapt(make_episodes(spec, n_support=0).support)
    save_tensors(tmp_path / "phi.safetensors", phi)


def test_tied_weights_can_be_saved_and_loaded(tmp_path: Path) -> None:
    tied = nn.ModuleList([nn.Linear(2, 2)] * 2)
    save_tensors(tmp_path / "w.safetensors", tied.state_dict())
    load_weights(nn.ModuleList([nn.Linear(2, 2)] * 2), tmp_path / "w.safetensors")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(b"noise" * 100),
    "a pickle": lambda path: torch.save({"weight": torch.zeros(2)}, path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_weights_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(path, nn.Linear(2, 2).state_dict())
    DAMAGE[damage](path)
    with pytest.raises(ValueError, match=r"expected a safetensors file, got a damaged or other one: .*w\.safetensors"):
        load_weights(nn.Linear(2, 2), path)


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected weights in .*w\.safetensors, found no such file"):
        load_tensors(tmp_path / "w.safetensors")


@pytest.mark.parametrize("other", [nn.Linear(2, 3), nn.Linear(2, 2, bias=False), nn.Sequential(nn.Linear(2, 2))])
def test_weights_of_another_architecture_are_named(tmp_path: Path, other: nn.Module) -> None:
    save_tensors(tmp_path / "w.safetensors", nn.Linear(2, 2).state_dict())
    with pytest.raises(ValueError, match=r"expected the weights of this architecture in .*w\.safetensors, got others"):
        load_weights(other, tmp_path / "w.safetensors")


# ------------------------------------------------------------------- checkpoints


class Run:
    """A module and its optimizer, a few steps into training."""

    def __init__(self, steps: int = 3) -> None:
        self.module = nn.Linear(2, 2)
        self.optimizer = torch.optim.Adam(self.module.parameters())
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.module(torch.randn(4, 2)).square().sum().backward()
            self.optimizer.step()

    def save(self, checkpoints: Checkpoints, step: int) -> None:
        checkpoints.save(step, {"model": self.module}, self.optimizer, {"step": step})

    def resume(self, checkpoints: Checkpoints) -> dict[str, int] | None:
        return checkpoints.resume({"model": self.module}, self.optimizer)

    def tensors(self) -> list[Tensor]:
        states = self.optimizer.state_dict()["state"].values()
        return [*self.module.state_dict().values(), *(part for state in states for part in state.values())]

    def same(self, other: Run) -> bool:
        return all(torch.equal(a, b) for a, b in zip(self.tensors(), other.tensors(), strict=True))


def two_checkpoints(folder: Path) -> tuple[Checkpoints, Run]:
    """Steps 1 and 2 on disk, and the run as it was at step 1."""
    checkpoints, at_1 = Checkpoints(folder), Run()
    at_1.save(checkpoints, 1)
    Run().save(checkpoints, 2)
    return checkpoints, at_1


def test_weights_optimizer_and_state_come_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoints, before, after = Checkpoints(tmp_path), Run(), Run(steps=1)
    before.save(checkpoints, 12)
    assert after.resume(checkpoints) == {"step": 12}
    assert after.same(before)


def test_nothing_to_resume_from_is_none(tmp_path: Path) -> None:
    assert Run().resume(Checkpoints(tmp_path / "new")) is None


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 10, 100, 99_999_999):
        Run().save(checkpoints, step)
    assert names(tmp_path) == ["step-00000100", "step-99999999"]
    assert Run().resume(checkpoints) == {"step": 99_999_999}


def test_the_same_step_can_be_saved_again(tmp_path: Path) -> None:
    checkpoints, first, second = Checkpoints(tmp_path), Run(), Run()
    first.save(checkpoints, 1)
    second.save(checkpoints, 1)
    again = Run()
    assert again.resume(checkpoints) == {"step": 1}
    assert again.same(second)


def test_what_a_killed_save_left_behind_is_ignored_and_then_replaced(tmp_path: Path) -> None:
    checkpoints, at_1 = Checkpoints(tmp_path), Run()
    at_1.save(checkpoints, 1)
    left = tmp_path / ".tmp-00000002"
    left.mkdir()
    (left / "state.json").write_text('{"step": 2}')
    (left / "stale").write_text("from the killed save")
    again = Run()
    assert again.resume(checkpoints) == {"step": 1}
    assert again.same(at_1)
    again.save(checkpoints, 2)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert names(tmp_path / "step-00000002") == ["model.safetensors", "optimizer.safetensors", "state.json"]


def test_a_checkpoint_that_does_not_have_its_name_yet_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    Run().save(checkpoints, 1)
    (tmp_path / "step-00000001").rename(tmp_path / ".tmp-00000001")
    assert Run().resume(checkpoints) is None


def test_going_on_with_other_settings_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    settings = {"outer": {"lr": 0.1, "steps": 3}, "seed": 0}
    Run().save(Checkpoints(tmp_path, settings), 1)
    other = Run()
    before = {name: value.clone() for name, value in other.module.state_dict().items()}
    with pytest.raises(ValueError, match=r"expected .* the same settings, got outer\.lr: 0\.1 there, 0\.2 now; use"):
        other.resume(Checkpoints(tmp_path, settings | {"outer": {"lr": 0.2, "steps": 3}}))
    assert all(torch.equal(value, before[name]) for name, value in other.module.state_dict().items())
    assert other.resume(Checkpoints(tmp_path, settings)) == {"step": 1}


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [cut, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, damage: Callable[[Path], object]
) -> None:
    checkpoints, at_1 = two_checkpoints(tmp_path)
    path = tmp_path / "step-00000002" / file
    # the last byte of the JSON is only a newline
    path.write_bytes(path.read_bytes()[:-2]) if file == "state.json" and damage is cut else damage(path)
    again = Run()
    assert again.resume(checkpoints) == {"step": 1}
    assert again.same(at_1)
    assert "step-00000002 cannot be read" in caplog.text


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.folder,)


def test_the_bomb_goes_off_where_pickles_are_trusted(tmp_path: Path) -> None:
    """Else the tests below would prove nothing."""
    torch.save(Bomb(tmp_path / "exploded"), tmp_path / "bomb.pt")
    torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert (tmp_path / "exploded").is_dir()


def test_a_pickle_bomb_in_the_optimizers_place_does_not_go_off(tmp_path: Path) -> None:
    checkpoints, _ = two_checkpoints(tmp_path / "checkpoints")
    for write in (torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb, protocol=2))):
        write(Bomb(tmp_path / "exploded"), tmp_path / "checkpoints" / "step-00000002" / "optimizer.safetensors")
        assert Run().resume(checkpoints) == {"step": 1}
        assert not (tmp_path / "exploded").exists()


NOT_AN_OPTIMIZER: dict[str, Callable[[Path], object]] = {
    "a pickle bomb": lambda path: torch.save(Bomb(path.parent / "exploded"), path),
    "zeros": lambda path: path.write_bytes(bytes(500)),
    "noise": lambda path: path.write_bytes(b"junk" * 50),
    "another dictionary": lambda path: torch.save({}, path),
}


@pytest.mark.parametrize("kind", NOT_AN_OPTIMIZER)
def test_an_optimizer_file_that_is_none_gives_way_to_the_checkpoint_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    checkpoints, at_1 = two_checkpoints(tmp_path)
    NOT_AN_OPTIMIZER[kind](tmp_path / "step-00000002" / "optimizer.safetensors")
    again = Run()
    assert again.resume(checkpoints) == {"step": 1}
    assert again.same(at_1)
    assert "step-00000002 cannot be read" in caplog.text


def test_checkpoints_that_are_all_damaged_are_named_and_change_nothing(tmp_path: Path) -> None:
    checkpoints, run = Checkpoints(tmp_path), Run()
    checkpoints.save(1, {"average": run.module, "model": run.module}, run.optimizer, {"step": 1})
    (tmp_path / "step-00000001" / "model.safetensors").write_bytes(b"")
    average, model = nn.Linear(2, 2), nn.Linear(2, 2)
    before = average.weight.clone()
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(ValueError, match=r"expected a checkpoint that can be read .* got 1 damaged"):
        checkpoints.resume({"average": average, "model": model}, optimizer)
    assert torch.equal(average.weight, before)
