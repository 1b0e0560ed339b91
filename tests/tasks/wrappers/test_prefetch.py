"""Episodes drawn ahead are the same episodes."""

from __future__ import annotations

import threading
from dataclasses import fields

import pytest
import torch

from metabox.episodes import Episodes, Examples
from metabox.targets import Reals, TaskSpec
from metabox.tasks import Glyphs, Prefetch
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler


class Recorder(EpisodeSampler):
    """Notes its calls and the threads they come from; fails at one index."""

    spec = TaskSpec(x_shape=(1,), target=Reals(1))

    def __init__(self, bad: int | None = None) -> None:
        self.bad, self.calls, self.threads = bad, [], set()
        self.drawn = threading.Semaphore(0)

    def sample(self, place, device="cpu"):
        self.threads.add(threading.get_ident())
        index, first = place.index, place.first
        self.calls.append((index, first))
        self.drawn.release()
        if index == self.bad:
            raise RuntimeError(f"index {index} is broken")
        x = torch.full((place.n_tasks, 1, 1), float(index * 100 + first))
        part = Examples(x=x, y=x, mask=torch.ones(place.n_tasks, 1, dtype=torch.bool))
        return Episodes(support=part, query=part)


def same(a: Episodes, b: Episodes) -> bool:
    parts = [(getattr(a.support, f.name), getattr(b.support, f.name)) for f in fields(Examples)]
    parts += [(getattr(a.query, f.name), getattr(b.query, f.name)) for f in fields(Examples)]
    return all(torch.equal(x, y) for x, y in [*parts, (a.classes, b.classes), (a.origin, b.origin)])


@pytest.mark.parametrize(
    "calls",
    [
        [(i, 0, "train") for i in range(6)],
        [(0, 4 * i, "test") for i in range(6)],
        [
            (0, 0, "train"),
            (1, 0, "train"),
            (2, 0, "train"),
            (0, 0, "val"),
            (0, 4, "val"),
            (3, 0, "train"),
            (9, 0, "train"),
        ],
        [(5, 0, "train")] * 4,
        [(4, 0, "train"), (3, 0, "train"), (2, 0, "train"), (1, 0, "train"), (0, 0, "train")],
    ],
    ids=["training", "evaluation", "both", "the same again", "backwards"],
)
def test_episodes_are_the_same_bits_with_and_without(calls):
    ahead, plain = Prefetch(Glyphs(n_way=3, n_query=2)), Glyphs(n_way=3, n_query=2)
    assert ahead.spec == plain.spec
    for index, first, split in calls:
        got = ahead.sample(Place(4, split, index=index, first=first, seed=1))
        assert same(got, plain.sample(Place(4, split, index=index, first=first, seed=1)))


def drawn(inner: Recorder, n: int) -> None:
    for _ in range(n):
        inner.drawn.acquire()  # however long it takes


def test_the_next_index_is_drawn_before_it_is_asked_for_on_one_other_thread():
    inner = Recorder()
    ahead = Prefetch(inner)
    for index in range(4):
        ahead.sample(Place(2, "train", index=index))
    drawn(inner, 5)
    assert inner.calls == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)], "each once"
    assert len(inner.threads) == 1
    assert threading.get_ident() not in inner.threads


def test_an_evaluation_goes_along_first():
    inner = Recorder()
    ahead = Prefetch(inner)
    for first in (0, 8, 16):
        ahead.sample(Place(8, "test", first=first))
    drawn(inner, 4)
    assert inner.calls[-1] == (0, 24)


def test_steps_that_are_not_even_are_not_guessed_at():
    inner = Recorder()
    ahead = Prefetch(inner)
    for index, first in ((0, 0), (0, 4), (1, 0), (1, 4), (2, 0)):
        ahead.sample(Place(4, "train", index=index, first=first))
    assert len(inner.calls) == 5


def test_an_exception_is_passed_on_where_it_belongs_and_nothing_else_is_lost():
    ahead = Prefetch(Recorder(bad=3))
    for index in range(3):
        ahead.sample(Place(1, "train", index=index))  # 3 is drawn ahead of its time
    with pytest.raises(RuntimeError, match="index 3 is broken"):
        ahead.sample(Place(1, "train", index=3))
    assert ahead.sample(Place(1, "train", index=4)).support.x.item() == 400


def test_results_are_those_of_the_inner_sampler():
    inner = Glyphs(n_way=3)
    assert Prefetch(inner).identity() == inner.identity()
    assert Prefetch(inner).fingerprint() == inner.fingerprint()
