"""Properties of N-way K-shot sampling, on made-up images whose pixels tell which drawing they are."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered import Numbered, Tasks

from metabox.episodes import Episodes
from metabox.seeding import Draws, hash_words
from metabox.tasks.nway import AHEAD
from metabox.tasks.place import Place

WIDE = 1 << 20


def drawn(**kwargs):
    """A sampler's first batch of 16 tasks."""
    return Tasks(**kwargs).sample(Place(16, "train"))


def tensors(episodes: Episodes) -> list[torch.Tensor]:
    s, q = episodes.support, episodes.query
    return [s.x, s.y, s.mask, q.x, q.y, q.mask, episodes.classes, episodes.origin]


def same(a: Episodes, b: Episodes) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def origins(episodes: Episodes) -> tuple[torch.Tensor, torch.Tensor]:
    n = episodes.support.y.shape[1]
    return episodes.origin[:, :n], episodes.origin[:, n:]


def classes_of(episodes: Episodes) -> torch.Tensor:
    return torch.where(episodes.origin < 0, -1, episodes.origin >> 32)


ranges = st.tuples(st.integers(1, 4), st.integers(0, 4)).map(lambda r: (r[0], r[0] + r[1]))
samplers = st.builds(
    dict, n_way=ranges, n_shot=ranges, n_query=ranges, imbalanced=st.booleans(), within_groups=st.booleans()
).filter(lambda k: not k["within_groups"] or k["n_way"][0] <= 4)


@settings(max_examples=40)
@given(
    samplers, st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 9999), st.integers(1, 9), st.integers(1, 3)
)
def test_a_task_depends_on_seed_split_index_and_its_number_alone(kwargs, seed, index, first, n_tasks, skipped):
    whole = Tasks(**kwargs).sample(Place(skipped + n_tasks, "train", index=index, first=first, seed=seed))
    part = Tasks(**kwargs).sample(Place(n_tasks, "train", index=index, first=first + skipped, seed=seed))
    assert same(whole[skipped:], part)


@pytest.mark.parametrize("n_tasks", [1, 7])
def test_steps_in_a_row_draw_what_single_steps_draw(n_tasks):
    walking = Tasks(n_way=(2, 6), n_shot=(1, 3), imbalanced=True)
    steps = [*range(3, 2 * AHEAD + 6), 9, 10, 11, 4, 100, 101, 102, 5]
    for step in steps:
        alone = Tasks(n_way=(2, 6), n_shot=(1, 3), imbalanced=True).sample(Place(n_tasks, "train", index=step, seed=5))
        assert same(walking.sample(Place(n_tasks, "train", index=step, seed=5)), alone), step
        walking.sample(Place(n_tasks + 1, "val", index=step, seed=5)) if step == 7 else None


def test_writing_into_a_batch_does_not_change_the_next_one_like_it():
    sampler = Tasks()
    first = sampler.sample(Place(4, "train"))
    wanted = [t.clone() for t in tensors(first)]
    for t in tensors(first):
        t.zero_()
    assert all(torch.equal(a, b) for a, b in zip(tensors(sampler.sample(Place(4, "train"))), wanted, strict=True))


def test_other_steps_seeds_splits_and_ranks_draw_unrelated_tasks():
    sampler = Tasks(Numbered(sizes=np.full(80, WIDE)), n_query=5)
    calls = [{"index": i, "seed": s, "first": f} for i, s, f in product((0, 1), (42, 43), (0, 16))]
    batches = [sampler.sample(Place(16, **call)) for call in calls]
    seen = torch.cat([b.origin.flatten() for b in batches])
    # 3,840 drawings of 60 million: 0.12 chance repeats are expected, in which two batches share one
    assert len(seen) - len(seen.unique()) <= 3
    rows = torch.cat([classes_of(b).sort(1).values for b in batches])
    assert len(rows.unique(dim=0)) == len(rows)
    trained = batches[0].support.x[..., 0].flatten()
    sampler.images.splits["val"] = sampler.images.splits["train"]
    assert (sampler.sample(Place(16, "val", seed=42)).support.x[..., 0].flatten() == trained).float().mean() < 0.2


def test_seed_42_step_1_and_seed_43_step_0_have_nothing_in_common():
    sampler = Tasks(Numbered(sizes=np.full(80, WIDE)))
    a = sampler.sample(Place(32, "train", index=1, seed=42))
    b = sampler.sample(Place(32, "train", seed=43))
    assert not set(a.origin.flatten().tolist()) & set(b.origin.flatten().tolist())
    assert (a.query.y == b.query.y).float().mean() < 0.3


@settings(max_examples=60)
@given(samplers, st.integers(0, 10**6))
def test_counts_masks_and_labels_fit_each_other_and_nothing_repeats(kwargs, index):
    episodes = Tasks(**kwargs).sample(Place(6, "train", index=index))
    ways, classes = episodes.classes.sum(1), classes_of(episodes)
    for t in range(6):
        low, high = kwargs["n_way"]
        assert low <= ways[t] <= high
        assert episodes.classes[t, : ways[t]].all(), "the classes of a task come before its padding"
        real = episodes.origin[t][episodes.origin[t] >= 0]
        assert len(real) == len(real.unique()), "no drawing twice, in support and query together"
        per_class = {}
        for name, part, columns in (
            ("n_shot", episodes.support, slice(None, episodes.support.y.shape[1])),
            ("n_query", episodes.query, slice(episodes.support.y.shape[1], None)),
        ):
            mask, y = part.mask[t], part.y[t]
            assert (mask.int().diff() <= 0).all(), "padding comes last"
            assert ((episodes.origin[t, columns] >= 0) == mask).all()
            assert (y[~mask] == 0).all()
            counts = y[mask].bincount(minlength=high)
            low_count, high_count = kwargs[name]
            assert (counts[ways[t] :] == 0).all()
            counts = counts[: ways[t]]
            assert (low_count <= counts).all()
            assert (counts <= high_count).all()
            if name == "n_query" or not kwargs["imbalanced"]:
                assert (counts == counts[0]).all(), "one number for all classes of a task"
            assert (part.x[t, mask, 0, 0, 0] == classes[t, columns][mask]).all(), "pixels are those of the origin"
            for label, c in zip(y[mask].tolist(), classes[t, columns][mask].tolist(), strict=True):
                assert per_class.setdefault(label, c) == c, "one class to a label, in support and query alike"
        assert len(set(per_class.values())) == ways[t]
        if kwargs["within_groups"]:
            assert len({int(Numbered().groups[c]) for c in per_class.values()}) == 1


def test_imbalanced_shots_differ_between_the_classes_of_a_task():
    episodes = drawn(n_way=5, n_shot=(1, 5), imbalanced=True)
    counts = torch.nn.functional.one_hot(episodes.support.y, 5).mul(episodes.support.mask[..., None]).sum(1)
    assert (counts.amax(1) > counts.amin(1)).float().mean() > 0.9


def test_every_number_of_ways_shots_and_queries_in_a_range_comes_up():
    episodes = Tasks(n_way=(2, 5), n_shot=(1, 4), n_query=(1, 3)).sample(Place(400, "train"))
    ways = episodes.classes.sum(1)
    assert ways.unique().tolist() == [2, 3, 4, 5]
    assert (episodes.support.mask.sum(1) / ways).unique().tolist() == [1, 2, 3, 4]
    assert (episodes.query.mask.sum(1) / ways).unique().tolist() == [1, 2, 3]


def uniform(counts: torch.Tensor) -> bool:
    """Whether counts `[K]` look like draws of equal chance: chi-square within five deviations of its mean."""
    expected = counts.sum() / len(counts)
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    return abs(chi2 - (len(counts) - 1)) < 5 * math.sqrt(2 * (len(counts) - 1))


@pytest.mark.parametrize("within_groups", [False, True])
def test_a_class_gets_every_label_equally_often(within_groups):
    sampler = Tasks(n_way=4, n_query=1, within_groups=within_groups)
    counts = torch.zeros(60, 4)
    for index in range(8):
        episodes = sampler.sample(Place(1500, "train", index=index))
        counts.view(-1).index_add_(
            0, (origins(episodes)[0] >> 32).flatten() * 4 + episodes.support.y.flatten(), torch.ones(6000)
        )
    assert all(uniform(row) for row in counts)
    if not within_groups:
        assert uniform(counts.sum(1)), "and every class is drawn equally often"


def test_a_drawing_is_drawn_equally_often_for_support_and_for_query():
    sampler = Tasks(Numbered(sizes=np.full(80, 20)), n_way=5, n_shot=2, n_query=3)
    episodes = sampler.sample(Place(4000, "train"))
    for part in origins(episodes):
        assert uniform((part & 0xFFFFFFFF).flatten().bincount(minlength=20).float())


def test_labels_come_at_every_position_equally_often_and_support_and_query_have_orders_of_their_own():
    episodes = Tasks(n_way=4, n_shot=2, n_query=2).sample(Place(8000, "train"))
    for part in (episodes.support, episodes.query):
        assert all(uniform(part.y[:, k].bincount(minlength=4).float()) for k in range(8))
    joint = episodes.support.y[:, 0] * 4 + episodes.query.y[:, 0]
    assert uniform(joint.bincount(minlength=16).float())


def test_the_same_classes_do_not_bring_back_the_same_images():
    images = Numbered(sizes=[20] * 5)
    images.splits = {"train": np.arange(5)}
    episodes = Tasks(images, n_way=5).sample(Place(200, "train"))
    chosen = episodes.origin[:, : 5 * 1].sort(1).values
    assert len(chosen.unique(dim=0)) > 195


def test_way_is_limited_to_a_tasks_group():
    episodes = Tasks(n_way=(3, 8), within_groups=True).sample(Place(300, "train"))
    group = torch.from_numpy(Numbered().groups)
    size = group[:60].bincount()
    ways = episodes.classes.sum(1)
    assert (ways <= size[group[classes_of(episodes)[:, 0]]]).all()
    assert ways.max() == 8


@pytest.mark.parametrize(
    ("kwargs", "names"),
    [
        ({"n_way": 0}, ["n_way", "at least 1", "0"]),
        ({"n_shot": (3, 2)}, ["n_shot", "[low, high]", "(3, 2)"]),
        ({"n_query": -1}, ["n_query", "-1"]),
        ({"n_way": 1_000_000, "n_shot": 1}, ["at most 1,048,576 images", "lower them"]),
        ({"n_way": 61}, ["61", "60", "'train'"]),
        ({"n_way": (5, 61)}, ["61", "60", "'train'"]),
        ({"n_way": 5, "within_groups": True}, ["smallest group", "4", "lower n_way"]),
        ({"n_shot": 6, "n_query": 15}, ["6 + 15 = 21", "20", "class 0", "lower n_shot or n_query"]),
        ({"within_groups": True, "images": Numbered(groups=False)}, ["groups", "within_groups=False"]),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_numbers_and_a_remedy(kwargs, names):
    with pytest.raises(ValueError, match="expected") as error:
        drawn(**kwargs)
    assert all(name in str(error.value) for name in names), str(error.value)


def test_a_split_without_classes_is_refused_by_name():
    with pytest.raises(ValueError, match=r"\['train', 'val'\], got 'test'"):
        Tasks().sample(Place(1, "test"))


def test_a_task_number_past_the_last_counter_is_refused():
    with pytest.raises(ValueError, match="use a new `index`"):
        Tasks().sample(Place(1, "train", first=2**31))


def test_words_are_the_hash_of_their_place_in_uint32_as_in_int64():
    from metabox.seeding import make_key

    words = Draws("x", 3, n_tasks=4, first=7).words("name", 5)
    counters = np.arange(35, 55).reshape(4, 5)
    assert (words == hash_words(counters, make_key("name", "x", 3))).all()
    assert [hash_words(int(c), make_key("name", "x", 3)) for c in counters[0]] == words[0].tolist()
