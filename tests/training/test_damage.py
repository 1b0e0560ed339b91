"""Damage is noticed: no bit of a run folder can turn round and give other weights, recipes, results or curves."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import Signs, Toy

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
if sys.platform == "win32":
    pytest.skip("forks need Unix", allow_module_level=True)
import harm

from metabox.files import read_json, write_json
from metabox.reports import manifest
from metabox.tensors import load_tensors, save_tensors
from metabox.training.checkpoints import Checkpoints
from metabox.training.description import read_description
from metabox.training.environment import read_environment
from metabox.training.loop import run
from metabox.training.settings import OuterLoop

QUICK = OuterLoop(steps=8, n_tasks=4, validate_every=4, n_validation=4, precision="32", accelerator="cpu")
RECIPE = "name: made\n"


def train(out: Path) -> object:
    return run(Signs(), Toy, QUICK, out=out)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that the command line leaves."""
    out = tmp_path_factory.mktemp("finished") / "run"
    manifest.begin(out, RECIPE)
    train(out)
    write_json(out / "results" / "test.json", {"summary": {"accuracy": {"mean": 0.5}}})
    manifest.record(out, out / "results" / "test.json", trained=True)
    return out


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def spoil(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file, and its hash with it, as a stranger can."""
    content = read_json(path, hashed=True)
    write_json(path, change(content) or content, hashed=True)


# -------------------------------------------------------------------- single bits


def read_checkpoint(folder: Path) -> list[Any]:
    """What a run would go on from."""
    model, other = torch.nn.ModuleList([Toy(Signs.spec)]), Checkpoints(folder.parent)
    return [other._read(folder, {"model": model})]


def read_all(folder: Path, path: Path) -> Any:
    """What a reader of this file gets from it, having checked it as the commands do."""
    manifest.check(folder)
    if "step-" in str(path):
        return read_checkpoint(path.parent)
    if changed := manifest.changes(folder):
        raise ValueError(changed)
    return {
        "recipe.yaml": lambda: path.read_text(),
        "best.safetensors": lambda: load_tensors(path),
        "environment.json": lambda: read_environment(folder),
        "model.json": lambda: read_description(folder),
    }.get(path.name, lambda: path.name)()


def equal(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(equal, one, two))
    return bool(one == two)


def test_a_single_bit_that_turns_round_is_noticed_or_changes_nothing(folder: Path) -> None:
    for name in ("tensorboard", ".lock"):  # curves for people, and an empty file
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    places = list(harm.flips(folder, 120))
    assert len({path for path, _ in places}) == 13
    noticed: list[bool] = []
    for path, bit in places:
        good = read_all(folder, path)
        harm.flip(path, bit)
        try:
            read = read_all(folder, path)
        except (ValueError, OSError) as error:
            noticed.append(path.name in str(error))
        else:
            assert equal(read, good), f"bit {bit} of {path} was not noticed"
        harm.flip(path, bit)
    assert len(noticed) > 110
    assert all(noticed)


def test_the_newest_checkpoint_with_a_turned_bit_gives_way_in_one_line_and_the_run_ends_the_same(
    folder: Path, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newest = folder / "checkpoints" / "step-00000008"
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        path = newest / name
        harm.flip(path, 8 * (path.stat().st_size // 2))
        with caplog.at_level(logging.WARNING):
            train(folder)
        (record,) = caplog.records
        assert f"{newest} cannot be read (expected " in record.getMessage()
        assert str(path) in record.getMessage()
        assert "\n" not in record.getMessage()
        assert equal(read_checkpoint(newest)[0][2], read_checkpoint(finished / "checkpoints" / newest.name)[0][2])
        caplog.clear()


def test_a_damaged_state_is_not_taken_for_other_settings(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = folder / "checkpoints" / "step-00000008" / "state.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    train(folder)
    assert "damaged" in caplog.text


def test_weights_of_another_moment_are_noticed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    old, new = (folder / "checkpoints" / f"step-0000000{n}" / "model.safetensors" for n in (4, 8))
    shutil.copy(old, new)
    train(folder)
    assert "that of another moment" in caplog.text


def test_best_weights_that_are_damaged_are_named_before_the_steps_that_are_left(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints" / "step-00000008")
    path = folder / "best.safetensors"
    harm.flip(path, 8 * path.stat().st_size - 100)
    with pytest.raises(ValueError, match=r"expected .*best\.safetensors as it was written"):
        train(folder)
    assert not (folder / "checkpoints" / "step-00000008").exists()


def test_a_file_without_a_hash_is_not_one_of_metabox(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"expected a hash in .*w\.safetensors, got none"):
        load_tensors(tmp_path / "w.safetensors")


# ------------------------------------------------------------- what strangers write


def save_moments(path: Path, **changed: Tensor | None) -> None:
    tensors = load_tensors(path)[0] | changed
    digest = save_tensors(path, {name: tensor for name, tensor in tensors.items() if tensor is not None})
    spoil(path.parent / "state.json", lambda content: content["hashes"].update(optimizer=digest))


MOMENTS: dict[str, dict[str, Tensor | None]] = {
    "a shorter moment": {"0.exp_avg": torch.zeros(1)},
    "an empty moment": {"0.exp_avg_sq": torch.zeros(0)},
    "a moment of another kind": {"0.exp_avg": torch.zeros(16, 5, dtype=torch.float64)},
    "a moment of other sides": {"0.exp_avg": torch.zeros(5, 16)},
    "a step that is a vector": {"0.step": torch.ones(3)},
    "a step of another kind": {"0.step": torch.tensor(4)},
    "a parameter that is not there": {"99.step": torch.tensor(4.0)},
    "an unknown moment": {"3.max_exp_avg_sq": torch.zeros(16)},
    "no step": {"3.step": None},
    "no number": {"x.exp_avg": torch.zeros(16)},
}


@pytest.mark.parametrize("kind", MOMENTS)
def test_moments_that_do_not_fit_their_parameters_are_refused_and_crash_nothing(folder: Path, kind: str) -> None:
    shutil.rmtree(folder / "checkpoints" / "step-00000008")
    path = folder / "checkpoints" / "step-00000004" / "optimizer.safetensors"
    status, said = harm.forked(lambda: (save_moments(path, **MOMENTS[kind]), train(folder)))
    assert status == harm.REFUSED, said
    assert "to fit this learner, got another one's: expected" in said


PROGRESS: dict[str, Any] = {
    "a list": [1],
    "null": None,
    "a step that is text": {"step": "4"},
    "a step below 0": {"step": -1},
    "best without a value": {"best": {"step": 1}},
    "an unknown number": {"other": 1},
    "a window that is none": {"window": {"x": 1}},
    "a window of text": {"window": {"sums": {"loss": "1"}, "counts": {"loss": 1}}},
    "seconds that are text": {"seconds": "1"},
}


@pytest.mark.parametrize("kind", PROGRESS)
def test_progress_that_is_none_is_named(folder: Path, kind: str) -> None:
    shutil.rmtree(folder / "checkpoints" / "step-00000008")
    path, new = folder / "checkpoints" / "step-00000004" / "state.json", PROGRESS[kind]
    spoil(path, lambda c: c | {"state": c["state"] | new if isinstance(new, dict) else new})
    with pytest.raises(ValueError, match=r"expected (the progress of a run|a checkpoint that can be read) in"):
        train(folder)


@pytest.mark.parametrize(
    "line", ["[1]", "5", "null", '"step"', "{}", '{"step": "4"}', '{"step": 4, "tr', "\x00", "\xff"]
)
def test_a_line_of_metrics_that_is_none_is_named_and_left_out(
    folder: Path, finished: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(folder / "checkpoints" / "step-00000008")
    path = folder / "metrics.jsonl"
    path.write_bytes(line.encode("latin-1") + b"\n" + path.read_bytes())
    train(folder)
    assert f"{path}, line 1: expected a step and its numbers as JSON" in caplog.text
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [4, 8]


@pytest.mark.parametrize(
    "content", ["", "[1]", "5", "null", "{}", '{"files": 3}', '{"finished": 1, "files": {}}', "[" * 100_000, "\xff"]
)
@pytest.mark.parametrize("name", ["manifest.json", "environment.json", "model.json"])
def test_a_manifest_or_facts_that_are_none_are_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_bytes(content.encode("latin-1"))
    read = {"manifest.json": manifest.changes, "environment.json": read_environment, "model.json": read_description}[
        name
    ]
    with pytest.raises(ValueError, match=f"expected (JSON in )?.*{name}"):
        read(folder)
    with pytest.raises(ValueError, match=name):
        manifest.check(folder)


@pytest.mark.parametrize(("name", "read"), [("environment.json", read_environment), ("model.json", read_description)])
def test_facts_that_are_missing_are_named(folder: Path, name: str, read: Callable[[Path], object]) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"expected .*{name} of a run, found no such file"):
        read(folder)


def test_a_recipe_that_was_changed_is_refused_and_another_one_too(folder: Path) -> None:
    (folder / "recipe.yaml").write_text("name: other\n")
    for check in (lambda: manifest.check(folder), lambda: manifest.begin(folder, RECIPE)):
        with pytest.raises(ValueError, match=r"expected .*recipe\.yaml as it was recorded"):
            check()
    (folder / "recipe.yaml").write_text(RECIPE)
    with pytest.raises(ValueError, match=r"to have this recipe, got other values of \['name: made', 'name: other'\]"):
        manifest.begin(folder, "name: other\n")
