"""Hooks see a run and change nothing of it; and the outer loop knows none of those that there are."""

from __future__ import annotations

import ast
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toys import Signs, Toy, named_rows

import metabox
from metabox import discover, recipe
from metabox.episodes import Episodes
from metabox.learners.multitask.hard_sharing import HardSharing
from metabox.multitask import GradientCosines
from metabox.objectives import Objective
from metabox.tasks import InMemory
from metabox.training.hook import Hook
from metabox.training.loop import check, run
from metabox.training.settings import OuterLoop

QUICK = OuterLoop(steps=24, n_tasks=6, validate_every=8, n_validation=3, precision="32", warmup=0, accelerator="cpu")


def named() -> InMemory:
    return InMemory(named_rows(), n_query=3)


class Noting(Hook):
    """The steps that it has seen, and the sums of their queries; stops the run by a signal before one of them."""

    stops: int | None = None

    def __init__(self, unused: int = 0) -> None:
        self.unused = unused

    def check(self, objective: Objective) -> None:
        if self.unused < 0:
            raise ValueError("expected something to see, got nothing")

    def begin(self, objective: Objective, folder: Path, step: int) -> None:
        self._path = folder / "noted.json"
        known = json.loads(self._path.read_text()) if self._path.exists() else []
        self._lines = [line for line in known if line[0] < step]
        self._path.parent.mkdir(exist_ok=True)

    def before_step(self, step: int, episodes: Episodes) -> None:
        if step == type(self).stops:
            signal.raise_signal(signal.SIGINT)
        self._lines.append([step, float(episodes.query.x.sum())])
        self._path.write_text(json.dumps(self._lines))


def train(out: Path, hooks: list[Hook], outer: OuterLoop = QUICK) -> dict[str, torch.Tensor]:
    run(named(), HardSharing, outer, hooks=hooks, out=out)
    return load_file(out / "checkpoints" / f"step-{outer.steps:08d}" / "model.safetensors")


def test_hooks_of_a_run_that_was_stopped_have_seen_what_those_of_a_whole_one_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", [Noting(), GradientCosines(5)])
    monkeypatch.setattr(Noting, "stops", 13)
    with pytest.raises(KeyboardInterrupt, match="after step 14"):
        train(tmp_path / "stopped", [Noting(), GradientCosines(5)])
    monkeypatch.undo()
    again = train(tmp_path / "stopped", [Noting(), GradientCosines(5)])
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    for name in ("noted.json", "cosines.json"):
        assert (tmp_path / "stopped" / "hooks" / name).read_text() == (tmp_path / "whole" / "hooks" / name).read_text()
    assert [step for step, _ in json.loads((tmp_path / "whole" / "hooks" / "noted.json").read_text())] == [*range(24)]


def test_steps_that_a_kill_has_undone_are_seen_once_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before_step = Noting.before_step

    def killed(self: Noting, step: int, episodes: Episodes) -> None:
        before_step(self, step, episodes)
        if step == 13:
            raise MemoryError

    monkeypatch.setattr(Noting, "before_step", killed)
    with pytest.raises(MemoryError):
        train(tmp_path, [Noting()])
    monkeypatch.undo()
    train(tmp_path, [Noting()])
    assert [step for step, _ in json.loads((tmp_path / "hooks" / "noted.json").read_text())] == [*range(24)]


def test_going_on_with_other_hooks_is_refused(tmp_path: Path) -> None:
    outer = replace(QUICK, steps=8)
    train(tmp_path, [GradientCosines(4)], outer)
    with pytest.raises(ValueError, match=r"hooks: .*'every': 4.* there, .*'every': 5.* now"):
        train(tmp_path, [GradientCosines(5)], outer)


REFUSED: dict[str, tuple[Any, OuterLoop, list[Hook], str]] = {
    "no names": (Signs, QUICK, [GradientCosines()], "two named tasks or parts"),
    "its own": (named, QUICK, [GradientCosines(), Noting(-1)], "something to see"),
    "shards": (named, replace(QUICK, strategy="fsdp", devices=2), [Noting()], "no hooks with fsdp"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_hook_that_has_nothing_to_see_is_refused_before_anything_is_written(tmp_path: Path, what: str) -> None:
    tasks, outer, hooks, says = REFUSED[what]
    with pytest.raises(ValueError, match=says):
        check(tasks(), Toy if tasks is Signs else HardSharing, outer, hooks=hooks, splits=("train", "val"))
    assert list(tmp_path.iterdir()) == []


RECIPE = """# Made mail
tasks: {class_path: MadeMail, init_args: {n_users: 3}}
learner: {class_path: HardSharing, init_args: {backbone: {class_path: MLP}}}
"""


def test_a_recipe_names_hooks(tmp_path: Path) -> None:
    path = tmp_path / "mail.yaml"
    path.write_text(RECIPE + "hooks: [{class_path: GradientCosines, init_args: {every: 7}}]\n")
    parser = recipe.make_parser(path)
    (hook,) = parser.instantiate(recipe.parse(parser, [])).hooks
    assert repr(hook) == "GradientCosines(every=7)"
    path.write_text(RECIPE + "hooks: [{class_path: Uncertainty, init_args: {n_losses: 3}}]\n")
    with pytest.raises(ValueError, match="hooks"):
        recipe.parse(recipe.make_parser(path), [])


def imported(path: Path) -> set[str]:
    """The modules that a file imports anywhere, by their whole names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
            assert not node.level, f"{path} imports relatively"
    return names


def test_the_loop_imports_nothing_of_the_weightings_and_hooks_that_there_are() -> None:
    package = Path(metabox.__file__).parent
    files = [*(package / "training").rglob("*.py"), package / "objectives.py", package / "evaluation.py"]
    assert len(files) > 15
    for file in files:
        found = {name for name in imported(file) if name.startswith("metabox.multitask")}
        assert not found, f"{file} imports {found}"
    homes = {found.module for base in ("Weighting", "Hook") for found in discover.subclasses(base)}
    assert all(home.startswith("metabox.multitask.") for home in homes)
