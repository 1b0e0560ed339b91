"""Named tasks with rows and kinds of target of their own train one network."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metabox.evaluation import evaluate
from metabox.learners import HardSharing
from metabox.objectives import QueryLoss
from metabox.targets import Classes, Reals, TaskSpec
from metabox.tasks.joined import join_tasks
from metabox.tasks.multitask.kinds import Kinds
from metabox.tasks.named import InMemory
from metabox.tasks.place import Place
from metabox.tasks.rows import Rows
from metabox.training.loop import run
from metabox.training.settings import OuterLoop

KIND = Rows(
    x=torch.zeros(4, 2),
    y=torch.tensor([0, 2, 1, 0]),
    split=["train", "train", "val", "test"],
    spec=TaskSpec((2,), Classes(3)),
)
DEPTH = Rows(
    x=torch.ones(2, 2), y=torch.tensor([[0.5, 7.0], [1.5, 8.0]]), split=["train", "val"], spec=TaskSpec((2,), Reals(2))
)


def test_a_row_has_the_label_of_its_own_task_and_the_others_are_missing() -> None:
    rows = join_tasks({"kind": KIND, "depth": DEPTH})
    assert rows.spec.tasks == ("kind", "depth")
    assert [(part.name, part.target) for part in rows.spec.target.parts] == [("kind", Classes(3)), ("depth", Reals(2))]
    assert rows.task.tolist() == [0, 0, 0, 0, 1, 1]
    missing = [math.nan, math.nan]
    wanted = [
        [0.0, *missing],
        [2.0, *missing],
        [1.0, *missing],
        [0.0, *missing],
        [math.nan, 0.5, 7.0],
        [math.nan, 1.5, 8.0],
    ]
    np.testing.assert_array_equal(rows.y.numpy(), wanted)


def test_a_row_teaches_the_head_of_its_own_task_and_what_the_tasks_share() -> None:
    sampler = Kinds(n_query=8)
    objective = QueryLoss(HardSharing(sampler.spec))
    episodes = sampler.sample(Place(1, first=1))
    objective(episodes)["loss"].sum().backward()
    head = objective.learner.head.weight.grad.split([part.n_params for part in sampler.spec.target.parts])
    assert [bool(own.any()) for own in head] == [k == int(episodes.task) for k in range(3)]
    assert all(bool(p.grad.any()) for p in objective.learner.embed.parameters())


def test_one_network_learns_classes_here_and_reals_there(tmp_path: Path) -> None:
    tasks = Kinds(n_query=16, n_train=(300, 300, 300))
    outer = OuterLoop(steps=300, n_tasks=9, lr=5e-3, validate_every=300, n_validation=6, precision="32", warmup=0)
    learner = run(tasks, HardSharing, outer, out=tmp_path)
    scores = evaluate(learner, Kinds(n_query=200, n_train=tasks.n_train), n_tasks=3)
    of = {name: scores.by_task(name) for name in ("accuracy_which", "squared_error_how_much", "accuracy_marks")}
    assert of["accuracy_which"]["which"] > 0.7
    assert of["accuracy_marks"]["marks"] > 0.8
    assert of["squared_error_how_much"]["how_much"] < 0.3
    assert math.isnan(of["accuracy_which"]["marks"])


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ({"kind": KIND}, "two tasks at least"),
        (
            {"kind": KIND, "odd": replace(DEPTH, x=torch.ones(2, 3), spec=TaskSpec((3,), Reals(2)))},
            "x of the same shape",
        ),
        ({"kind": KIND, "all": join_tasks({"a": KIND, "b": DEPTH})}, r"neither named tasks nor parts, got \['all'\]"),
    ],
)
def test_what_cannot_be_joined_is_refused(tasks: dict[str, Rows], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        join_tasks(tasks)


def test_tasks_that_are_described_serve_those_that_were_never_trained() -> None:
    """Linear tasks told by their weights alone, whose optimum is known: an error of 0."""
    random = torch.Generator().manual_seed(0)
    x, w = torch.randn(960, 3, generator=random), torch.randn(16, 3, generator=random)
    task = np.arange(960) % 16
    names = tuple(f"task {k}" for k in range(16))
    spec = TaskSpec((3,), Reals(1, noise=1.0), descriptor_size=3, tasks=names)
    split = np.array(["train", "val", "test"])[np.arange(960) // 16 % 3]
    y = (x * w[task]).sum(1, keepdim=True)
    rows = Rows(x=x, y=y, split=split, spec=spec, task=task, descriptors=w)
    sampler = InMemory(rows, n_query=16, untrained=names[-4:])
    torch.manual_seed(0)
    learner = HardSharing(sampler.spec)
    learner.fit(sampler)
    objective, optimizer = QueryLoss(learner), torch.optim.Adam(learner.parameters(), lr=1e-2)
    for step in range(500):
        optimizer.zero_grad()
        objective(sampler.sample(Place(12, index=step)))["loss"].mean().backward()
        optimizer.step()
    scores = evaluate(learner.eval(), sampler, n_tasks=4).by_task("squared_error")
    assert set(scores) == set(names[-4:])
    spread = float((y[task >= 12] ** 2).mean())
    assert np.mean(list(scores.values())) < 0.1 * spread
