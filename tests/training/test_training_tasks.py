"""The outer loop with named tasks and parts: weightings, their resume, and what is recorded."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toys import PARTS, made_parts

from metabox.episodes import Device, Episodes
from metabox.evaluation import evaluate
from metabox.learners.cnp import CNP
from metabox.learners.multitask.dense import DenseMultiTask
from metabox.learners.multitask.hard_sharing import HardSharing
from metabox.multitask import DWA, Fixed, GradientCosines, GradNorm, Random, Surgery, Uncertainty, WorstCase
from metabox.multitask.transfer import read_cosines
from metabox.targets import Parts, Reals, TaskSpec
from metabox.tasks.named import FiniteTasks, InMemory
from metabox.tasks.place import Place
from metabox.tasks.rows import Rows
from metabox.training.hook import Hook
from metabox.training.loop import MakeWeighting, run
from metabox.training.settings import OuterLoop

QUICK = OuterLoop(steps=24, n_tasks=8, lr=1e-2, validate_every=8, n_validation=6, precision="32", warmup=0)
WEIGHTINGS: dict[str, MakeWeighting] = {
    "uncertainty": Uncertainty,
    "gradnorm": GradNorm,
    "dwa": partial(DWA, period=3),
    "random": Random,
    "worst case": partial(WorstCase, step=0.5),
    "pcgrad": partial(Surgery, method="pcgrad"),
    "nash": partial(Surgery, method="nash", every=2),
}


def named() -> FiniteTasks:
    """Three linear tasks of two numbers with weights of their own."""
    random = torch.Generator().manual_seed(0)
    x, weights = torch.randn(90, 2, generator=random), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    task = np.arange(90) % 3
    spec = TaskSpec((2,), Reals(1), descriptor_size=3, tasks=("a", "b", "c"), index_size=3)
    y = (x * weights[task]).sum(1, keepdim=True)
    split = np.array(["train", "train", "val"])[np.arange(90) // 3 % 3]
    return InMemory(Rows(x=x, y=y, split=split, spec=spec, task=task, descriptors=torch.eye(3)), n_query=6)


def parts() -> FiniteTasks:
    """One task of five parts, a quarter of the labels missing."""
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    spec = TaskSpec((3,), Parts(PARTS))
    return InMemory(Rows(x=x, y=made_parts(1, 40)[0], split=["train", "val"] * 20, spec=spec), n_query=6)


def train(
    out: Path,
    weighting: MakeWeighting | None = None,
    tasks: Any = named,
    outer: OuterLoop = QUICK,
    hooks: list[Hook] | None = None,
) -> dict[str, torch.Tensor]:
    learner = HardSharing if tasks is named else DenseMultiTask
    target = Reals(1, noise=1) if weighting is Uncertainty else None  # which learns the scale itself
    run(tasks(), learner, outer, weighting=weighting, target=target, hooks=hooks, out=out)
    return load_file(out / "checkpoints" / f"step-{outer.steps:08d}" / "model.safetensors")


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.allclose(a[name], b[name], rtol=1e-3, atol=1e-4) for name in a)


@pytest.mark.parametrize("tasks", [named, parts])
def test_equal_weights_train_as_the_plain_sum_does(tmp_path: Path, tasks: Any) -> None:
    plain = train(tmp_path / "plain", None, tasks)
    fixed = train(tmp_path / "fixed", Fixed, tasks)
    assert close(plain, fixed)
    other = train(tmp_path / "other", WorstCase, tasks)
    assert not close(plain, other)


def test_a_weighting_refuses_a_step_in_several_batches(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected accumulate=1 with a weighting"):
        train(tmp_path, Fixed, outer=replace(QUICK, accumulate=2))


def test_a_weight_of_zero_leaves_the_head_of_a_task_as_it_was(tmp_path: Path) -> None:
    outer = replace(QUICK, weight_decay=0.0)
    whole = train(tmp_path / "whole", Fixed, outer=outer)
    without = train(tmp_path / "without", partial(Fixed, weights=[1.0, 0.0, 1.0]), outer=outer)
    start = train(tmp_path / "start", partial(Fixed, weights=[0.0, 0.0, 0.0]), outer=outer)
    head = "learner.head.layers.weight"
    assert torch.equal(without[head][1], start[head][1])
    assert not torch.equal(without[head][0], start[head][0])
    assert not torch.equal(whole[head][1], start[head][1])


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_run_with_a_weighting_that_was_stopped_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    train(tmp_path / "whole", WEIGHTINGS[name])
    sample, calls = InMemory.sample, 0

    def interrupt(self: InMemory, place: Place, device: Device = "cpu") -> Episodes:
        nonlocal calls
        calls += place.split == "train"
        if calls == 12:
            signal.raise_signal(signal.SIGINT)
        return sample(self, place, device)

    monkeypatch.setattr(InMemory, "sample", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", WEIGHTINGS[name])
    monkeypatch.undo()
    train(tmp_path / "stopped", WEIGHTINGS[name])
    last = [tmp_path / run / "checkpoints/step-00000024" for run in ("whole", "stopped")]
    for file in ("model.safetensors", *(["weighting.safetensors"] if name != "random" else [])):
        one, two = (load_file(folder / file) for folder in last)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one), file


@pytest.mark.parametrize("name", ["gradnorm", "pcgrad"])
def test_a_weighting_that_takes_gradients_of_its_own_works_in_bf16(tmp_path: Path, name: str) -> None:
    trained = train(tmp_path, WEIGHTINGS[name], outer=replace(QUICK, precision="bf16"), hooks=[GradientCosines(10)])
    assert all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in trained.values())


def test_learned_weights_move_and_do_not_decay(tmp_path: Path) -> None:
    train(tmp_path, Uncertainty, outer=replace(QUICK, optimizer="adamw", weight_decay=100.0, lr=1e-3))
    learned = load_file(tmp_path / "checkpoints/step-00000024/weighting.safetensors")["log_variance"]
    assert 0.005 < learned.abs().max() < 0.03  # at most lr a step, for 24 steps


def test_a_bad_step_leaves_the_weighting_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = InMemory.sample

    def spoil(self: InMemory, place: Place, device: Device = "cpu") -> Episodes:
        episodes = sample(self, place, device)
        if (place.split, place.index) == ("train", 5):
            episodes.query.y[:] = 1e30
        return episodes

    monkeypatch.setattr(InMemory, "sample", spoil)
    train(tmp_path, partial(DWA, period=4))
    state = load_file(tmp_path / "checkpoints/step-00000024/weighting.safetensors")
    assert int(state["batches"]) == 23
    assert state["means"].isfinite().all()
    assert json.loads((tmp_path / "checkpoints/step-00000024/state.json").read_text())["state"]["skipped"] == 1


def test_going_on_with_another_weighting_is_refused(tmp_path: Path) -> None:
    train(tmp_path, DWA)
    with pytest.raises(ValueError, match="weighting"):
        train(tmp_path, partial(DWA, temperature=3.0))


def test_tasks_without_names_have_nothing_to_weigh(tmp_path: Path) -> None:
    rows = Rows(x=torch.zeros(8, 2), y=torch.zeros(8, 1), split=["train", "val"] * 4, spec=TaskSpec((2,), Reals(1)))
    with pytest.raises(ValueError, match="two named tasks or parts at least"):
        run(InMemory(rows), CNP, QUICK, weighting=Fixed, out=tmp_path)


@pytest.mark.parametrize("tasks", [named, parts])
def test_cosines_are_recorded_and_recording_changes_nothing(tmp_path: Path, tasks: Any) -> None:
    plain = train(tmp_path / "plain", None, tasks)
    looked_at = train(tmp_path / "looked at", None, tasks, hooks=[GradientCosines(10)])
    assert all(torch.equal(plain[name], looked_at[name]) for name in plain)
    names, steps, cosines = read_cosines(tmp_path / "looked at" / "hooks" / "cosines.json")
    assert names == (["a", "b", "c"] if tasks is named else [part.name for part in PARTS])
    assert steps == [0, 10, 20]
    seen = cosines[~cosines.isnan()]
    assert seen.abs().max() < 1.0001
    assert len(seen)


def test_scores_of_named_tasks_and_of_parts_with_missing_labels_are_told_apart(tmp_path: Path) -> None:
    learner = run(named(), HardSharing, QUICK, out=tmp_path / "named")
    scores = evaluate(learner, named(), split="val", n_tasks=6)
    assert scores.tasks == ["a", "b", "c"] * 2
    by_hand = [np.mean(scores.per_task["squared_error"][i::3]) for i in range(3)]
    assert list(scores.by_task("squared_error").values()) == pytest.approx(by_hand)

    learner = run(parts(), DenseMultiTask, QUICK, out=tmp_path / "parts")
    lines = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(value) for line in lines for value in line["val"].values())
    assert {"nll", "accuracy_walls", "squared_error_depth"} <= lines[-1]["val"].keys()


def test_a_score_that_a_task_does_not_have_is_left_out_of_means(tmp_path: Path) -> None:
    tasks = parts()
    tasks._rows.y[1, -1] = math.nan  # row 1 is of validation; its class of the last part
    learner = run(tasks, DenseMultiTask, QUICK, out=tmp_path)
    scores = evaluate(learner, InMemory(tasks.load(), n_query=1), split="val", n_tasks=60)
    values = scores.per_task["accuracy_kind"]
    there = [value for value in values if not math.isnan(value)]
    assert 0 < len(there) < len(values)
    assert scores.mean("accuracy_kind") == pytest.approx(np.mean(there))
    assert math.isfinite(scores.interval("accuracy_kind"))
