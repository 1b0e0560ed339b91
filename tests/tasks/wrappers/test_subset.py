"""Some of the tasks or parts of a sampler: the same rows, the same labels, and nothing of the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from toys import named_rows

from metabox.learners import HardSharing
from metabox.targets import Huber, Laplace, PerTask
from metabox.tasks import Glyphs
from metabox.tasks.descriptors import Beside, OneHot, Specification
from metabox.tasks.multitask.kinds import Kinds
from metabox.tasks.multitask.recommendation import Viewers
from metabox.tasks.multitask.regressions import DescribedRegressions
from metabox.tasks.named import InMemory
from metabox.tasks.place import Place
from metabox.tasks.wrappers.subset import Subset
from metabox.training.preflight import check
from metabox.training.settings import OuterLoop


def test_a_task_has_its_rows_and_no_others() -> None:
    whole = DescribedRegressions(n_tasks=5, n_train=7, n_eval=7, n_query=7)
    for split in ("train", "val", "test"):
        all_of_them = whole.sample(Place(60, split))
        some = Subset(whole, ("task-3", "task-1")).sample(Place(4, split))
        assert some.task.tolist() == [0, 1, 0, 1]
        for t, k in enumerate((3, 1, 3, 1)):
            same = int((all_of_them.task == k).nonzero()[0, 0])
            assert torch.equal(some.query.y[t].sort(0).values, all_of_them.query.y[same].sort(0).values)
            assert torch.equal(some.descriptor[t], all_of_them.descriptor[same])


def test_the_index_is_of_the_tasks_that_are_left_and_the_rest_of_a_descriptor_stays() -> None:
    whole = DescribedRegressions(n_tasks=5, descriptor=Beside([OneHot(), Specification()]))
    some = Subset(whole, ("task-4", "task-0"))
    assert (some.spec.tasks, some.spec.index_size) == (("task-4", "task-0"), 2)
    z, told = some.sample(Place(2)).descriptor, whole.load().descriptors
    assert torch.equal(z, torch.cat([torch.eye(2), told[[4, 0]]], dim=1))
    assert torch.equal(some.trained_tasks()[0], told[[4, 0]])
    HardSharing(some.spec, code="both")


def test_tasks_take_turns_so_that_all_have_as_many_rows() -> None:
    rows = named_rows()  # 4, 12 and 14 training rows
    some = Subset(InMemory(rows, temperature=1.0, n_query=2), ("a", "c"))
    assert torch.bincount(some.sample(Place(10)).task).tolist() == [5, 5]
    torch.testing.assert_close(some.trained_tasks()[1], torch.tensor([0.5, 0.5]))


def test_parts_are_of_the_same_examples() -> None:
    whole = Viewers()
    some = Subset(whole, ("watched", "liked"))
    assert [part.name for part in some.spec.target.parts] == ["watched", "liked"]
    one, other = whole.sample(Place(3)), some.sample(Place(3))
    assert torch.equal(one.query.x, other.query.x)
    torch.testing.assert_close(other.query.y, one.query.y[..., 1:3], equal_nan=True)
    assert other.oracle is None


def test_joined_tasks_lose_the_columns_of_the_others() -> None:
    some = Subset(Kinds(n_query=5), ("how_much", "marks"))
    assert [part.name for part in some.spec.target.parts] == ["how_much", "marks"]
    y = some.sample(Place(2)).query.y
    assert y.shape == (2, 5, 5)
    assert y.isnan()[:, 0].tolist() == [[False, False, True, True, True], [True, True, False, False, False]]


def test_each_task_keeps_its_own_loss() -> None:
    rows = DescribedRegressions(n_tasks=3).load()
    target = PerTask(("task-0", "task-1", "task-2"), (Laplace(1), Huber(1), Laplace(1)))
    whole = InMemory(replace(rows, spec=replace(rows.spec, target=target)))
    assert Subset(whole, ("task-1", "task-2")).spec.target.kinds == (Huber(1), Laplace(1))


def test_one_task_alone_trains() -> None:
    check(Subset(InMemory(named_rows()), ("b",)), HardSharing, OuterLoop(steps=2, n_tasks=2, warmup=0))
    check(Subset(Viewers(), ("liked",)), HardSharing, OuterLoop(steps=2, n_tasks=2, warmup=0))


def test_a_subset_of_other_names_is_other_tasks() -> None:
    rows = InMemory(named_rows())
    assert Subset(rows, ("a",)).fingerprint() != Subset(rows, ("b",)).fingerprint()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Subset(Viewers(), ()), "expected one or more different names, got"),
        (lambda: Subset(Viewers(), ("liked", "liked")), "expected one or more different names, got"),
        (lambda: Subset(Viewers(), ("disliked",)).spec, r"or of parts, among .*, got \['disliked'\]"),
        (lambda: Subset(Glyphs(), ("a",)).spec, r"or of parts, among \[\], got \['a'\]"),
        (
            lambda: Subset(DescribedRegressions(n_tasks=3, untrained=("task-1",)), ("task-1",)).spec,
            r"expected names of trained tasks, or of parts, among .*, got \['task-1'\]",
        ),
        (
            lambda: Subset(Subset(InMemory(named_rows()), ("a", "b")), ("a",)).spec,
            "expected FiniteTasks for named tasks",
        ),
    ],
)
def test_what_is_not_there_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
