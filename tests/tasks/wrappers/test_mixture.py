"""Two task distributions in one training."""

from __future__ import annotations

import pytest
import torch

from metabox.tasks import Glyphs, Handwriting, Mixture
from metabox.tasks.place import Place

OPTIONS = {"n_way": 5, "n_shot": 1, "n_query": 1}


def mixed(share: float) -> Mixture:
    return Mixture(Glyphs(**OPTIONS), Handwriting(**OPTIONS), share)


def same(a, b):
    return torch.equal(a.support.x, b.support.x) and torch.equal(a.query.x, b.query.x)


def test_a_share_of_the_training_steps_has_tasks_of_the_other_sampler_unchanged():
    tasks, other = mixed(0.25), 0
    for step in range(200):
        place = Place(1, "train", index=step)
        drawn = tasks.sample(place)
        is_first, is_other = (same(drawn, source.sample(place)) for source in (tasks.tasks, tasks.other))
        assert is_first != is_other
        other += is_other
    assert 30 <= other <= 70  # within 3.3 standard deviations of 50


@pytest.mark.parametrize("split", ["val", "test"])
def test_validation_and_test_tasks_are_those_of_the_first(split):
    tasks = mixed(1.0)
    assert all(same(tasks.sample(p), tasks.tasks.sample(p)) for p in (Place(1, split, first=i) for i in range(8)))


def test_processes_that_share_a_step_take_the_same_sampler():
    tasks = mixed(0.5)
    for step in range(20):
        kinds = {
            same(tasks.sample(place), tasks.other.sample(place))
            for place in (Place(1, "train", index=step, first=first) for first in range(4))
        }
        assert len(kinds) == 1


def test_its_data_are_those_of_both():
    tasks = mixed(0.5)
    assert tasks.tasks.fingerprint() in tasks.fingerprint()
    assert tasks.other.fingerprint() in tasks.fingerprint()


def test_tasks_of_two_kinds_are_refused():
    tasks = Mixture(Glyphs(**OPTIONS), Handwriting(**OPTIONS | {"n_way": 6}))
    with pytest.raises(ValueError, match=r"expected tasks of one kind in a Mixture, got target .*5.* and .*6"):
        tasks.sample(Place(1))
