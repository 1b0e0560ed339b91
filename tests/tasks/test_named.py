"""Finitely many named tasks: who is drawn how often, which rows may be seen when, and what is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from toys import named_rows

from metabox.episodes import SPLITS, Episodes, Split
from metabox.targets import Classes, Reals, TaskSpec
from metabox.tasks.named import FiniteTasks, InMemory
from metabox.tasks.place import Place
from metabox.tasks.rows import Rows


def tasks(**kwargs: Any) -> FiniteTasks:
    return InMemory(named_rows(), **kwargs)


def rows_of(episodes: Episodes) -> tuple[list[list[int]], list[list[int]]]:
    """The rows in support and query, task by task; a row's x is its number."""
    return tuple(  # type: ignore[return-value]
        [part.x[t, part.mask[t], 0].long().tolist() for t in range(len(part))]
        for part in (episodes.support, episodes.query)
    )


def drawn(sampler: FiniteTasks, n: int = 6000) -> list[float]:
    """How often each task is drawn in training."""
    task = sampler.sample(Place(n, "train")).task
    assert task is not None
    return (torch.bincount(task, minlength=3) / n).tolist()


def test_every_row_is_of_its_task_and_split_and_support_is_always_of_the_training_rows() -> None:
    sampler = tasks(n_support=(0, 4), n_query=8)
    own, split_of = np.repeat([0, 1, 2], [6, 24, 30]), named_rows().split
    for split in SPLITS:
        episodes = sampler.sample(Place(50, split, index=3))
        sampler.spec.check_episodes(episodes)
        assert episodes.task is not None
        for task, support, query in zip(episodes.task.tolist(), *rows_of(episodes), strict=True):
            assert {split_of[i] for i in support} <= {"train"}
            assert {split_of[i] for i in query} == {split}
            assert {own[i] for i in support + query} == {task}
            assert len(set(support + query)) == len(support + query)
        assert episodes.descriptor is not None
        assert torch.equal(episodes.descriptor, torch.eye(3)[episodes.task])


def test_tasks_are_drawn_uniformly_or_by_size_or_in_between() -> None:
    assert drawn(tasks()) == pytest.approx([1 / 3] * 3, abs=0.02)
    size = np.array([4, 12, 14])  # training rows: half of each task's
    assert size.tolist() == [list(named_rows().split[a:b]).count("train") for a, b in ((0, 6), (6, 30), (30, 60))]
    assert drawn(tasks(temperature=1.0)) == pytest.approx((size / size.sum()).tolist(), abs=0.02)
    root = size**0.5
    assert drawn(tasks(temperature=2.0)) == pytest.approx((root / root.sum()).tolist(), abs=0.02)


def test_evaluation_goes_through_every_task_and_all_its_rows() -> None:
    sampler = tasks(n_query=30)
    episodes = sampler.sample(Place(3, "test"))
    assert episodes.task is not None
    assert episodes.task.tolist() == [0, 1, 2]
    assert sorted(i for rows in rows_of(episodes)[1] for i in rows) == [i for i in range(60) if i % 4 == 3]
    later = sampler.sample(Place(2, "test", first=2))  # another rank, or a later batch
    assert later.task is not None
    assert later.task.tolist() == [2, 0]


def test_two_ranks_draw_what_one_process_with_twice_the_tasks_draws() -> None:
    sampler = tasks(n_support=(0, 4), n_query=(2, 8), temperature=1.5, untold=0.5)
    whole = rows_of(sampler.sample(Place(8, "train", index=5, seed=1)))
    halves = [rows_of(sampler.sample(Place(4, "train", index=5, first=first, seed=1))) for first in (0, 4)]
    for part in (0, 1):
        assert halves[0][part] + halves[1][part] == whole[part]


def test_a_small_task_gives_what_it_has_and_leaves_one_row_to_ask_for() -> None:
    sampler = tasks(n_support=50, n_query=50)
    episodes = sampler.sample(Place(40, "train"))
    assert episodes.task is not None
    for task, support, query in zip(episodes.task.tolist(), *rows_of(episodes), strict=True):
        assert len(query) == 1
        assert len(support) == [4, 12, 14][task] - 1


def test_a_share_of_the_tasks_is_not_told_who_it_is() -> None:
    z = tasks(untold=0.25).sample(Place(4000, "train")).descriptor
    assert z is not None
    assert float((z.sum(1) == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert set(z.sum(1).tolist()) == {0.0, 1.0}


def test_a_task_that_is_untrained_is_in_the_test_only_and_the_test_has_no_other() -> None:
    rows = named_rows()
    described = replace(rows, descriptors=torch.eye(3), spec=replace(rows.spec, index_size=0))
    sampler = InMemory(described, n_query=30, untrained=("b",))
    assert sampler.spec.untrained == ("b",)
    for split, wanted in (("train", {0, 2}), ("val", {0, 2}), ("test", {1})):
        episodes = sampler.sample(Place(20, split))
        assert set(episodes.task.tolist()) == wanted
    _, frequency = sampler.trained_tasks()
    assert frequency.tolist() == [0.5, 0.5]
    for untrained, says in ((("z",), r"got \['z'\]"), (("a", "b", "c"), "expected a task to train")):
        with pytest.raises(ValueError, match=says):
            InMemory(described, untrained=untrained).sample(Place(1))
    with pytest.raises(ValueError, match="told by its index, got none of b"):
        InMemory(rows, untrained=("b",)).sample(Place(1))


@pytest.mark.parametrize("support_split", ["val", "test"])
def test_supports_of_an_evaluation_may_be_of_rows_that_nothing_was_trained_on(support_split: Split) -> None:
    sampler, split_of = tasks(n_support=3, n_query=30, support_split=support_split), named_rows().split
    for support, query in zip(*rows_of(sampler.sample(Place(6, "test"))), strict=True):
        assert {split_of[i] for i in support} <= {support_split}  # the smallest task has one row, for the query
        assert {split_of[i] for i in query} == {"test"}
        assert not set(support) & set(query)
    assert {split_of[i] for rows in rows_of(sampler.sample(Place(6)))[0] for i in rows} == {"train"}


def test_a_task_of_fewer_classes_has_a_mask() -> None:
    episodes = InMemory(named_rows(ways=np.array([1, 2, 3]))).sample(Place(3, "val"))
    assert episodes.classes is not None
    assert episodes.classes.tolist() == [[True, False, False], [True, True, False], [True] * 3]


def test_one_task_needs_no_name() -> None:
    rows = Rows(x=torch.zeros(8, 2), y=torch.zeros(8, 1), split=["train", "test"] * 4, spec=TaskSpec((2,), Reals(1)))
    episodes = InMemory(rows, n_query=4).sample(Place(2, "test"))
    assert episodes.task is None
    assert rows_of(episodes)[1] == [[0] * 4] * 2


def test_the_fingerprint_is_that_of_the_content() -> None:
    other = replace(named_rows(), y=torch.zeros(60, dtype=torch.long))
    prints = [InMemory(rows).fingerprint() for rows in (named_rows(), named_rows(), other)]
    assert prints[0] == prints[1] != prints[2]
    assert "60 rows" in prints[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y": torch.zeros(3)}, r"as many entries as x has rows, 60, got \{'y': 3\}"),
        ({"split": ["train"] * 59 + ["dev"]}, r"splits among .*got \['dev'\]"),
        ({"task": np.full(60, 3)}, "task ids from 0 to 2"),
        ({"descriptors": torch.eye(2)}, "descriptors of 3 tasks, got 2"),
        (
            {"descriptors": torch.eye(3)[:, :2]},
            r"expected descriptors \[3, 3\], or without their index, got \[..., 2\]",
        ),
        (
            {"descriptors": None, "spec": replace(named_rows().spec, index_size=0)},
            r"expected descriptors \[3, 3\], got \[..., 0\]",
        ),
        ({"ways": np.ones(4, np.int64)}, "ways of 3 tasks, got 4"),
    ],
)
def test_rows_that_do_not_fit_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(named_rows(), **change)


def test_options_out_of_range_and_splits_without_rows_are_refused() -> None:
    for options in ({"temperature": 0.0}, {"untold": 1.5}, {"n_query": 0}):
        with pytest.raises(ValueError, match="expected"):
            tasks(**options)
    with pytest.raises(ValueError, match="expected rows in split 'val', got none"):
        InMemory(replace(named_rows(), split=["train", "test"] * 30)).sample(Place(2, "val"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", float("nan"), "finite x, got NaN or infinity"),
        ("x", float("inf"), "finite x, got NaN or infinity"),
        ("y", 7, "class ids from 0 to 1"),
        ("descriptors", float("nan"), "finite descriptors"),
    ],
)
def test_rows_with_values_that_nobody_can_learn_from_are_refused_when_they_are_given(name, value, message):
    spec = TaskSpec((3,), Classes(2), 1)
    given = {"x": torch.zeros(6, 3), "y": torch.zeros(6, dtype=torch.int64), "descriptors": torch.zeros(1, 1)}
    Rows(split=["train"] * 6, spec=spec, **given)
    given[name].view(-1)[-1] = value
    with pytest.raises(ValueError, match=message):
        Rows(split=["train"] * 6, spec=spec, **given)
