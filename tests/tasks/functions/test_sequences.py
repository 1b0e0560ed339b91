"""Associative recall and copying: what is asked was shown."""

from __future__ import annotations

import pytest
import torch
from function_cases import UNLIKELY
from scipy.stats import chisquare

from metabox.tasks import (
    AssociativeRecall,
    Copy,
)
from metabox.tasks.place import Place


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_query_of_associative_recall_is_answered_in_the_support(split):
    sampler = AssociativeRecall(length=(2, 6), test_length=(8, 12), n_query=2, key_bits=5, value_bits=4)
    episodes = sampler.sample(Place(300, split))
    s, q = episodes.support, episodes.query
    low, high = (8, 12) if split == "test" else (2, 6)
    assert set(s.mask.sum(1).tolist()) == set(range(low, high + 1))
    for t in range(300):
        pairs = {
            tuple(k): tuple(v) for k, v in zip(s.x[t][s.mask[t]].tolist(), s.y[t][s.mask[t]].tolist(), strict=True)
        }
        assert len(pairs) == s.mask[t].sum(), "keys differ"
        asked = [tuple(k) for k in q.x[t].tolist()]
        assert len(set(asked)) == 2
        assert [pairs[k] for k in asked] == [tuple(v) for v in q.y[t].tolist()]
    assert not episodes.oracle.any()
    assert abs(s.y[s.mask].mean() - 0.5) < 0.05
    assert abs(s.x[s.mask].mean() - 0.5) < 0.05


def test_every_place_of_associative_recall_is_asked_equally_often():
    episodes = AssociativeRecall(length=4).sample(Place(2000, "train"))
    place = (episodes.support.x == episodes.query.x).all(-1).int().argmax(1)
    assert chisquare(place.bincount()).pvalue > UNLIKELY


def test_copy_asks_for_all_vectors_in_order():
    episodes = Copy(length=(1, 20), test_length=(60, 120)).sample(Place(100, "test"))
    s, q = episodes.support, episodes.query
    assert torch.equal(s.y, q.y)
    assert torch.equal(s.x, q.x)
    assert torch.equal(s.mask, q.mask)
    assert s.x.shape[2] == 7  # bits for 120 places
    place = (s.x * 2.0 ** torch.arange(7)).sum(-1)
    for t in range(100):
        n = int(s.mask[t].sum())
        assert 60 <= n <= 120
        assert torch.equal(place[t, :n], (place[t, 0] + torch.arange(float(n))) % 128)
    assert abs(s.y[s.mask].mean() - 0.5) < 0.02
    train = Copy(length=(1, 20), test_length=(60, 120)).sample(Place(400, "train"))
    assert set(train.support.mask.sum(1).tolist()) == set(range(1, 21))
    assert train.support.x.shape[2] == 7
    first = (train.support.x[:, 0] * 2.0 ** torch.arange(7)).sum(-1).long()
    assert chisquare((first // 16).bincount(minlength=8)).pvalue > UNLIKELY


def test_a_short_copy_has_every_bit_of_a_place_too():
    short = Copy(length=(1, 20), test_length=(60, 120)).sample(Place(400, "train")).support
    assert (abs(short.x[short.mask].mean(0) - 0.5) < 0.1).all()
