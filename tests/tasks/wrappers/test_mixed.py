"""Classes mixed from two: a plain loop over images is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metabox.tasks import Glyphs, MixedClasses
from metabox.tasks.place import Place

SEED, INDEX, T = 3, 5, 6
INNER = {"n_way": (2, 4), "n_shot": (1, 3), "n_query": (1, 2), "imbalanced": True}


def pair(split="train", **kwargs):
    inner = Glyphs(**INNER)
    place = Place(T, split, index=INDEX, first=2, seed=SEED)
    return inner.sample(place), MixedClasses(inner, **kwargs).sample(place)


def plain(part, ways, task, how, p):
    """Each image of one part of one task, by the definition."""
    draws = Place(T, "train", index=INDEX, first=2, seed=SEED).draws("mixed classes")
    way = int(ways[task])
    steps = draws.integers("step", 1, np.array(ways) - 1)
    share = draws.uniform("share", 0.5, 1.0, 4)[task]
    place = draws.uniform("place", 0.0, 1.0, 4, 2)[task]
    mixed = draws.uniform("mixed", 0.0, 1.0)[task] < p
    of = {c: [i for i in range(part.y.shape[1]) if part.mask[task, i] and part.y[task, i] == c] for c in range(way)}
    out = part.x[task].clone()
    for c in range(way) if mixed else ():
        other = of[(c + int(steps[task])) % way]
        for rank, i in enumerate(of[c]):
            if not other:
                continue
            a, b = part.x[task, i].long(), part.x[task, other[rank % len(other)]].long()
            if how == "mixup":
                w = round(share[c] * 256)
                out[i] = (w * a + (256 - w) * b + 128) // 256
            else:
                side = round((1 - share[c]) ** 0.5 * 28)
                top, left = (int(u * (28 - side + 1)) for u in place[c])
                out[i, :, top : top + side, left : left + side] = b[:, top : top + side, left : left + side].byte()
    return out


@pytest.mark.parametrize("how", ["cutmix", "mixup"])
@pytest.mark.parametrize("p", [1.0, 0.5])
def test_images_are_mixed_class_by_class_as_by_the_definition(how, p):
    before, after = pair(how=how, p=p)
    ways, changed = before.classes.sum(1).tolist(), 0
    for task in range(T):
        for name in ("support", "query"):
            part, got = getattr(before, name), getattr(after, name)
            wanted = plain(part, ways, task, how, p)
            assert torch.equal(got.x[task], wanted), f"task {task}, {name}"
            changed += not torch.equal(got.x[task], part.x[task])
    assert changed == 2 * T if p == 1 else 0 < changed < 2 * T


def test_labels_masks_and_origins_stay_and_so_do_masked_images():
    before, after = pair(p=1.0)
    for a, b in ((before.support, after.support), (before.query, after.query)):
        assert torch.equal(a.y, b.y)
        assert torch.equal(a.mask, b.mask)
        assert torch.equal(a.x[~a.mask], b.x[~a.mask])
    assert torch.equal(before.origin, after.origin)


@pytest.mark.parametrize("split", ["val", "test"])
def test_only_training_tasks_are_mixed(split):
    before, after = pair(split=split, p=1.0)
    assert torch.equal(before.support.x, after.support.x)


def test_a_task_does_not_depend_on_the_batch_it_is_in():
    sampler = MixedClasses(Glyphs(**INNER), p=0.5)
    whole = sampler.sample(Place(4, "train", index=1))
    for task in range(4):
        one = sampler.sample(Place(1, "train", index=1, first=task))
        assert torch.equal(one.query.x[0], whole.query.x[task])


def test_one_class_alone_and_no_share_of_tasks_change_nothing():
    inner = Glyphs(n_way=1)
    for sampler in (MixedClasses(inner, p=1.0), MixedClasses(inner, p=0.0)):
        assert torch.equal(sampler.sample(Place(2, "train")).query.x, inner.sample(Place(2, "train")).query.x)


def test_results_say_how_tasks_were_mixed():
    record = MixedClasses(Glyphs(n_way=3), how="mixup", p=0.25).config
    assert (record["how"], record["p"], record["tasks"]) == ("mixup", 0.25, Glyphs(n_way=3).config)
