"""Tasks that grow with the training step, and labels that stay: pure functions of their arguments, as all sampling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from metabox.episodes import Episodes
from metabox.recipe import make_parser, parse
from metabox.tasks import DecisionTrees, Glyphs, LinearFunctions, Sinusoids, TwoLayerNetworks
from metabox.tasks.place import Place
from metabox.tasks.wrappers.curriculum import Curriculum, Growth
from metabox.tasks.wrappers.fixed_labels import FixedLabels
from metabox.tasks.wrappers.projections import RandomProjections

SMALL = LinearFunctions(dim=6, noise=0.5, n_support=12)
TASKS = Curriculum(SMALL, dims=Growth(2, 1, 10), points=Growth(3, 4, 5))


def garg_schedule(steps: int, start: int, by: int, every: int, end: int) -> list[int]:
    """The value at each step, by the loop of the authors' code: it is updated after every step, from the count on."""
    values, value = [], start
    for count in range(1, steps + 1):
        values.append(value)
        if count % every == 0:
            value += by
        value = min(value, end)
    return values


def same(a: Episodes, b: Episodes) -> bool:
    parts = [(e.support.x, e.support.y, e.query.x, e.query.y) for e in (a, b)]
    return all(torch.equal(x, y) for x, y in zip(*parts, strict=True))


@pytest.mark.parametrize(
    ("start", "by", "every", "end"), [(5, 1, 7, 20), (11, 2, 3, 41), (26, 5, 4, 101), (3, 5, 2, 3)]
)
def test_a_number_grows_as_in_the_code_of_garg_et_al(start: int, by: int, every: int, end: int) -> None:
    growth = Growth(start, by, every)
    assert [growth.at(step, end) for step in range(200)] == garg_schedule(200, start, by, every, end)


def test_training_tasks_have_the_inputs_and_points_of_their_step() -> None:
    for step, (dims, points) in {0: (2, 3), 4: (2, 3), 5: (2, 7), 10: (3, 11), 15: (3, 13), 99: (6, 13)}.items():
        episodes = TASKS.sample(Place(4, "train", index=step))
        TASKS.spec.check_episodes(episodes)
        x = torch.cat([episodes.support.x, episodes.query.x], dim=1)
        assert x.shape == (4, points, 6)
        assert episodes.query.x.shape[1] == 1
        assert x[..., :dims].all()
        assert not x[..., dims:].any()


def test_a_function_of_few_inputs_is_one_of_that_many_inputs() -> None:
    for step in (0, 7, 40):
        got = TASKS.sample(Place(3, "train", index=step, first=5, seed=2))
        dims, points = TASKS.dims.at(step, 6), TASKS.points.at(step, 13)
        small = LinearFunctions(dim=dims, noise=0.5, n_support=points - 1)
        wanted = small.sample(Place(3, "train", index=step, first=5, seed=2))
        assert torch.equal(got.support.x[..., :dims], wanted.support.x)
        assert torch.equal(got.query.y, wanted.query.y)
        assert torch.equal(got.oracle, wanted.oracle)


def test_a_step_is_the_same_whatever_was_drawn_before() -> None:
    straight = [TASKS.sample(Place(3, "train", index=step)) for step in range(12)]
    for step in (11, 3, 7, 3):
        resumed = Curriculum(SMALL, dims=Growth(2, 1, 10), points=Growth(3, 4, 5)).sample(Place(3, "train", index=step))
        assert same(resumed, straight[step])
    assert TASKS.tasks.dim == 6
    assert TASKS.tasks.n_support == (12, 12)


@pytest.mark.parametrize("split", ["val", "test"])
def test_validation_and_test_have_the_whole_tasks_from_the_start(split) -> None:
    assert same(TASKS.sample(Place(3, split)), SMALL.sample(Place(3, split)))


@pytest.mark.parametrize(
    "tasks", [TwoLayerNetworks(), DecisionTrees(), LinearFunctions(sparsity=3)], ids=lambda tasks: type(tasks).__name__
)
def test_every_family_of_garg_et_al_can_grow(tasks) -> None:
    episodes = Curriculum(tasks, points=None).sample(Place(5, "train", index=2000))
    assert episodes.support.x[..., :6].any()
    assert not episodes.support.x[..., 6:].any()
    assert episodes.support.y.any(1).all()
    assert episodes.support.x.shape[1] == tasks.n_support[0]


def test_what_is_not_grown_is_whole() -> None:
    assert same(Curriculum(SMALL, None, None).sample(Place(3, "train")), SMALL.sample(Place(3, "train")))


def test_the_record_tells_curricula_and_tasks_apart() -> None:
    made = [
        TASKS,
        Curriculum(SMALL, dims=Growth(2, 1, 11), points=Growth(3, 4, 5)),
        Curriculum(SMALL, dims=Growth(2, 1, 10), points=None),
        Curriculum(LinearFunctions(dim=6, noise=0.4, n_support=12), dims=Growth(2, 1, 10), points=Growth(3, 4, 5)),
        FixedLabels(Glyphs(image_size=8)),
        FixedLabels(Glyphs(image_size=8), share=0.25),
        FixedLabels(Glyphs(image_size=9)),
    ]
    records = [json.dumps(sampler.identity()) for sampler in made]
    assert len(set(records)) == len(records)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Curriculum(SMALL, dims=Growth(7, 1, 1)), "dims to start from 1 to 6"),
        (lambda: Curriculum(SMALL, dims=None, points=Growth(14, 1, 1)), "points to start from 1 to 13"),
        (lambda: Curriculum(LinearFunctions(sparsity=3), dims=Growth(2, 1, 1)), "dims to start from 3 to 20"),
        (lambda: Curriculum(LinearFunctions(n_support=(0, 9))), "one number of support points"),
        (lambda: Curriculum(LinearFunctions(n_query=2)), "n_query 1"),
        (lambda: Curriculum(LinearFunctions(pool=4)), "without a pool"),
        (lambda: FixedLabels(Sinusoids()).sample(Place(2, "train")), "tasks of classes .* targets Reals"),
    ],
)
def test_bad_options_are_named(make, says) -> None:
    with pytest.raises(ValueError, match=says) as error:
        make()
    assert "expected" in str(error.value)


def test_a_recipe_can_name_a_curriculum(tmp_path: Path) -> None:
    path = tmp_path / "growing.yaml"
    path.write_text(
        "tasks:\n  class_path: Curriculum\n  init_args:\n    tasks: {class_path: DecisionTrees, init_args: {dim: 7}}\n"
        "    dims: {start: 2, by: 1, every: 10}\n    points: null\nlearner: Interleaved\n"
    )
    parser = make_parser(path)
    made = parser.instantiate(parse(parser, []))
    assert made.tasks.dims == Growth(2, 1, 10)
    assert made.tasks.points is None
    assert made.tasks.tasks.dim == 7


RAGGED = Glyphs(image_size=8, n_way=(2, 5), n_shot=(1, 3), n_query=2)


def numbered_by_hand(episodes: Episodes, t: int) -> tuple[list[int], list[int]]:
    """The labels of a task with its classes numbered in the order of their ids, one example after the other."""
    n = episodes.support.mask.shape[1]
    y, mask = (
        torch.cat([episodes.support.y[t], episodes.query.y[t]]),
        torch.cat([episodes.support.mask[t], episodes.query.mask[t]]),
    )
    classes = [int(o) >> 32 for o in episodes.origin[t]]  # how generated characters number their drawings
    order = sorted({c for c, real in zip(classes, mask, strict=True) if real})
    labels = [order.index(c) if real else int(old) for c, real, old in zip(classes, mask, y, strict=True)]
    return labels[:n], labels[n:]


def test_fixed_labels_number_the_classes_in_order() -> None:
    plain, fixed = (
        tasks.sample(Place(20, "train", index=3, seed=1)) for tasks in (RAGGED, FixedLabels(RAGGED, share=1.0))
    )
    assert not torch.equal(plain.support.y, fixed.support.y)
    assert torch.equal(plain.support.x, fixed.support.x)
    for t in range(20):
        support, query = numbered_by_hand(plain, t)
        assert fixed.support.y[t].tolist() == support
        assert fixed.query.y[t].tolist() == query
    RAGGED.spec.check_episodes(fixed)


def test_a_share_of_the_training_tasks_has_fixed_labels_and_no_other_task() -> None:
    tasks = FixedLabels(RandomProjections(Glyphs(image_size=8, n_way=3, n_query=1), size=4), share=0.3)
    plain, some = (sampler.sample(Place(400, "train")) for sampler in (tasks.tasks, tasks))
    every = FixedLabels(tasks.tasks, share=1.0).sample(Place(400, "train"))
    changed = (some.support.y != plain.support.y).any(1)
    assert torch.equal(some.support.y[changed], every.support.y[changed])
    assert abs(float(changed.float().mean()) - 0.3) < 0.1
    part = tasks.sample(Place(7, "train", first=50))
    assert torch.equal(part.support.y, some.support.y[50:57])
    for split in ("val", "test"):
        assert torch.equal(tasks.sample(Place(30, split)).support.y, tasks.tasks.sample(Place(30, split)).support.y)
