"""Tasks in a row: each sequence is n whole tasks of the inner sampler."""

from __future__ import annotations

import pytest
import torch
from numbered import Tasks

from metabox.evaluation import evaluate
from metabox.learners import LSTM
from metabox.nn.backbones import Flatten
from metabox.objectives import StreamLoss
from metabox.tasks import Consecutive, KalmanFiltering, MadeMail
from metabox.tasks.place import Place
from metabox.testing import build

RAGGED = Tasks(n_way=(2, 4), n_shot=(1, 3), n_query=2, names=300)
PLACE = Place(5, "train", index=2, first=3, seed=1)


def test_a_sequence_is_whole_tasks_one_after_the_other() -> None:
    got = Consecutive(RAGGED, 3).sample(PLACE)
    RAGGED.spec.check_episodes(got)
    single = RAGGED.sample(Place(15, "train", index=2, first=9, seed=1))
    assert torch.equal(got.query.y, single.query.y[2::3])
    for t in range(5):
        wanted = [
            (tuple(x.flatten().tolist()), int(y))
            for i in range(3 * t, 3 * t + 3)
            for part in (single.support, single.query)
            for x, y in zip(part.x[i][part.mask[i]], part.y[i][part.mask[i]], strict=True)
        ]
        found = [
            (tuple(x.flatten().tolist()), int(y))
            for part in (got.support, got.query)
            for x, y in zip(part.x[t][part.mask[t]], part.y[t][part.mask[t]], strict=True)
        ]
        assert found == wanted
        mask = torch.cat([got.support.mask[t], got.query.mask[t]])
        assert got.origin[t][mask].tolist() == [i for row in single.origin[3 * t : 3 * t + 3] for i in row if i >= 0]


def test_the_label_set_is_that_of_all_tasks_and_the_oracle_that_of_the_last() -> None:
    ways = Tasks(n_way=(2, 4), n_shot=1, n_query=1)
    single, got = ways.sample(Place(20, "train")).classes, Consecutive(ways, 2).sample(Place(10, "train")).classes
    assert torch.equal(got, single[::2] | single[1::2])
    filtering = KalmanFiltering(n_support=4)
    got, single = Consecutive(filtering, 2).sample(Place(3, "test")), filtering.sample(Place(6, "test"))
    assert torch.equal(got.oracle, single.oracle[1::2])
    assert got.support.x.shape == (3, 9, 1)


def test_a_stream_of_tasks_is_scored_at_every_instance_of_all_of_them() -> None:
    tasks = Consecutive(Tasks(n_way=2, n_shot=2, n_query=1, names=300), 3)
    learner = build(lambda spec: LSTM(spec, backbone=Flatten, width=4, labels="strings", truncate=6), tasks.spec)
    scores = evaluate(learner, tasks, split="val", n_tasks=8, objective=StreamLoss)
    assert {"accuracy_instance_1", "accuracy_instance_3"} <= set(scores.per_task)


def test_tasks_that_are_told_apart_by_a_descriptor_are_refused() -> None:
    with pytest.raises(ValueError, match="expected tasks without descriptors and names for Consecutive"):
        Consecutive(MadeMail(n_users=4, n_train=(3, 10), n_eval=10)).sample(Place(2, "train"))
