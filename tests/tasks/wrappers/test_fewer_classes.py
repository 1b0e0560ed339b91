"""Tasks of few classes first: pure functions of their arguments, as all sampling."""

from __future__ import annotations

import pytest
import torch
from numbered import Tasks

from metabox.tasks import FewerClasses, Glyphs
from metabox.tasks.place import Place
from metabox.tasks.wrappers.curriculum import Growth

SIZES = {"n_shot": 3, "n_query": 2}
GROWING = FewerClasses(Tasks(n_way=5, **SIZES), Growth(2, 1, 10))


@pytest.mark.parametrize(("step", "way"), [(0, 2), (9, 2), (10, 3), (29, 4), (30, 5), (1000, 5)])
def test_training_tasks_are_those_of_the_classes_of_their_step(step: int, way: int) -> None:
    place = Place(4, "train", index=step, first=3, seed=7)
    got, wanted = GROWING.sample(place), Tasks(n_way=way, **SIZES).sample(place)
    GROWING.spec.check_episodes(got)
    for part in ("support", "query"):
        assert torch.equal(getattr(got, part).x, getattr(wanted, part).x)
        assert torch.equal(getattr(got, part).y, getattr(wanted, part).y)
    assert got.support.mask.shape == (4, 3 * way)
    assert int(got.support.y.max()) == way - 1
    assert got.classes.sum(1).tolist() == [way] * 4


def test_validation_has_all_classes_from_the_start_and_a_place_its_tasks_in_any_order() -> None:
    assert GROWING.sample(Place(4, "val", index=0)).support.mask.shape == (4, 15)
    first = GROWING.sample(Place(2, "train", index=3))
    GROWING.sample(Place(2, "train", index=40))
    assert torch.equal(GROWING.sample(Place(2, "train", index=3)).support.x, first.support.x)


def test_names_stay_those_of_all_classes() -> None:
    tasks = FewerClasses(Tasks(n_way=5, names=3125, **SIZES), Growth(2, 1, 10))
    got = tasks.sample(Place(4, "train"))
    tasks.spec.check_episodes(got)
    assert got.classes.shape == (4, 3125)
    assert int(got.support.y.max()) > 5


def test_what_cannot_grow_is_refused() -> None:
    for tasks, ways in ((Glyphs(n_way=(2, 5)), Growth(2, 1, 10)), (Glyphs(n_way=5), Growth(6, 1, 10))):
        with pytest.raises(
            ValueError, match=r"expected tasks of one n_way and ways that start from 1 to it, got n_way"
        ):
            FewerClasses(tasks, ways)
