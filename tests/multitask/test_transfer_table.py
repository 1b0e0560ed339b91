"""The transfer table on a made-up conflict: two tasks that are one, and a third that is their opposite."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metabox.episodes import Episodes
from metabox.learners import HardSharing, Independent
from metabox.multitask.gains import TransferTable
from metabox.multitask.transfer_table import _groups, _Trainer, transfer_table
from metabox.nn.backbones import MLP
from metabox.nn.conditioning import Concat
from metabox.targets import Reals, TaskSpec
from metabox.tasks.multitask.recommendation import CorrelatedRegressions
from metabox.tasks.named import InMemory
from metabox.tasks.place import Place
from metabox.tasks.rows import Rows
from metabox.tasks.wrappers.subset import Subset
from metabox.training import loop
from metabox.training.settings import OuterLoop

DIM, N, NOISE = 8, 24, 0.5
OUTER = OuterLoop(
    steps=40, n_tasks=1, lr=3e-2, weight_decay=0, warmup=0, validate_every=40, n_validation=1, precision="32"
)
LEARNER = partial(HardSharing, condition=Concat, backbone=partial(MLP, width=16, depth=1))


def conflict(told: torch.Tensor | None = None) -> InMemory:
    """y = x_0 for a and b, and -x_0 for c; all are told the same, so that the best network for a and c predicts 0."""
    told = torch.ones(3, 1) if told is None else told
    random = np.random.default_rng(0)
    n = N + 400
    x = random.normal(size=(3, n, DIM))
    y = x[..., 0] * np.array([[1], [1], [-1]]) + NOISE * random.normal(size=(3, n))
    rows = Rows(
        x=torch.from_numpy(x).float().flatten(0, 1),
        y=torch.from_numpy(y).float().view(-1, 1),
        split=np.tile(np.repeat(["train", "val", "test"], [N, 200, 200]), 3),
        spec=TaskSpec(
            (DIM,), Reals(1, noise=1), told.shape[1], tasks=("a", "b", "c"), index_size=told.shape[1] // 3 * 3
        ),
        task=np.repeat(np.arange(3), n),
        descriptors=told,
    )
    return InMemory(rows, n_query=200)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TransferTable, Path, list[str]]:
    out, told = tmp_path_factory.mktemp("transfer"), list[str]()
    found = transfer_table(conflict(), LEARNER, OUTER, metric="squared_error", n_test=1, out=out, tell=told.append)
    return found, out, told


def test_the_conflict_is_found_and_the_two_that_are_one_are_put_together(trained: Any) -> None:
    found: TransferTable = trained[0]
    hurt = {(row["group"], row["task"]) for row in found.negative()}
    assert {(("a", "c"), "a"), (("b", "c"), "b")} <= hurt
    assert not {(("a", "b"), "a"), (("a", "b"), "b")} & hurt
    pairs = found.pairs()
    assert (pairs[0, 1], pairs[1, 0]) > (0, 0)
    assert (pairs[[0, 1, 2, 2], [2, 2, 0, 1]] < -50).all()  # an error of .25 alone, of 1.25 at best together
    affinity = found.affinity
    assert (affinity[0, 1], affinity[1, 0]) > (0, 0)
    assert (affinity[[0, 1, 2, 2], [2, 2, 0, 1]] < 0).all()
    for how in ("affinity", "pairs", "best"):
        assert found.groupings[how] == (("a", "b"), ("c",))
    gains = {row["chosen"]: row["delta"] for row in found.compared()}
    assert gains["best"] == gains["affinity"] > gains["alone"] == 0 > gains["together"]


def test_its_cost_is_told_first_and_every_group_is_trained(trained: Any) -> None:
    found, _, told = trained
    assert told[0].startswith("transfer table of 3 tasks: 7 groups with 3 seeds each, 21 runs of 40 steps, 1,440 rows")
    groups = [tuple(name for i, name in enumerate("abc") if number >> i & 1) for number in range(1, 8)]
    assert set(found.scores["test"]) == set(found.scores["val"]) == set(groups)


def test_a_gain_is_the_relative_change_against_the_same_task_alone(trained: Any) -> None:
    found: TransferTable = trained[0]
    scores = found.scores["test"]
    changes = [100 * (1 - m / s) for m, s in zip(scores["a", "c"]["c"], scores["c",]["c"], strict=True)]
    row = found.gains(("a", "c"))[1]
    assert row["delta"] == pytest.approx(np.mean(changes))
    assert row["interval_95"] == pytest.approx(4.3027 * np.std(changes, ddof=1) / math.sqrt(3), rel=1e-4)
    assert found.pairs()[0, 2] == pytest.approx(np.mean(changes))
    assert "| a + c | c |" in found.markdown()
    assert "| best | a + b; c | +" in found.markdown()
    with pytest.raises(ValueError, match="expected a group that was trained"):
        found.gains(("c", "a"))


def test_it_goes_on_where_it_was_stopped(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call takes no step, and a run that is missing is trained again, to the same end."""
    found, out, _ = trained
    steps: list[int] = []
    step = loop.Step.__call__
    monkeypatch.setattr(
        loop.Step, "__call__", lambda self, number, *rest: steps.append(number) or step(self, number, *rest)
    )
    before = json.loads((out / "transfer.json").read_text())
    again = transfer_table(conflict(), LEARNER, OUTER, metric="squared_error", n_test=1, out=out, tell=steps.append)
    assert [one for one in steps if isinstance(one, int)] == []
    assert again.scores == found.scores
    assert json.loads((out / "transfer.json").read_text()) == before


def test_every_run_has_the_same_steps_and_the_same_rows_of_each_task(trained: Any, monkeypatch: Any) -> None:
    _, out, _ = trained
    lines = [json.loads(path.read_text().splitlines()[-1]) for path in out.glob("*/metrics.jsonl")]
    assert [line["step"] for line in lines] == [40] * 21
    seen: list[tuple[int, list[int]]] = []
    taken = Subset.sample
    monkeypatch.setattr(
        Subset, "sample", lambda self, place, device="cpu": _noted(taken(self, place, device), place, seen)
    )
    for group in ("a",), ("a", "c"), ("a", "b", "c"):
        trainer = _Trainer(
            *(conflict(), LEARNER, replace(OUTER, steps=1, n_tasks=4, validate_every=1), "squared_error", (9,)),
            *(conflict(), 1, None, "training", out),
        )
        trainer.train(group, 1)
        first = next(count for n_tasks, count in seen if n_tasks == 4 * len(group))
        assert first == [4] * len(group)
        seen.clear()


def _noted(episodes: Episodes, place: Place, seen: list[tuple[int, list[int]]]) -> Episodes:
    if place.split == "train":
        seen.append((place.n_tasks, torch.bincount(episodes.task).tolist()))
    return episodes


def test_of_more_tasks_than_five_only_pairs_are_trained_and_of_more_than_six_named_ones() -> None:
    names = tuple("abcdefg")
    assert len(_groups(names[:5], None)) == 31
    assert len(_groups(names[:6], None)) == 6 + 15 + 1
    assert len(_groups(names, None)) == 7 + 1
    assert _groups(names, [("c", "a"), ("a", "c")]) == [*((name,) for name in names), ("a", "c"), names]
    assert _groups(names[:2], None) == [("a",), ("b",), ("a", "b")]


def test_parts_are_trained_on_the_same_examples(tmp_path: Path) -> None:
    outer = OuterLoop(steps=2, n_tasks=2, warmup=0, validate_every=2, n_validation=2, precision="32")
    tasks = CorrelatedRegressions(dim=4, n_query=8)
    found = transfer_table(
        *(tasks, partial(HardSharing, backbone=partial(MLP, width=4)), outer),
        metric="squared_error",
        seeds=(0,),
        n_test=2,
        every=1,
        out=tmp_path,
        tell=lambda line: None,
    )
    assert set(found.scores["test"]) == {("target_1",), ("target_2",), ("target_1", "target_2")}
    assert found.gains(("target_1", "target_2"))[0]["interval_95"] is None
    assert found.negative() == []
    assert found.affinity.isfinite().tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": ()}, "expected one or more different seeds, got"),
        ({"seeds": (1, 1)}, "expected one or more different seeds, got"),
        ({"metric": {"a": "squared_error"}}, "expected the metric of each of"),
        ({"pairs": [("a", "a")]}, "expected pairs of different tasks among"),
        ({"pairs": [("a", "z")]}, "expected pairs of different tasks among"),
        ({"metric": "accuracy", "seeds": (0,)}, "accuracy"),
        ({"n_test": 0}, "expected n_test"),
        ({"learner": Independent, "tasks": conflict(torch.eye(3))}, "expected shared parameters"),
    ],
)
def test_bad_arguments_are_refused_before_much_is_trained(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    usual: dict[str, Any] = {
        "tasks": conflict(),
        "learner": LEARNER,
        "outer": OUTER,
        "metric": "squared_error",
        "seeds": (0,),
        "out": tmp_path,
    }
    with pytest.raises(ValueError, match=message):
        transfer_table(**usual | {"tell": lambda line: None} | options)
    assert not list(tmp_path.glob("*/checkpoints"))
