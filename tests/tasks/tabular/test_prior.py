"""`TabularPrior`: its tables are a pure function of their place, and have what its options say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from metabox.episodes import Episodes
from metabox.tasks import TabularPrior
from metabox.tasks.place import Place
from metabox.tasks.tabular.functions import FUNCTIONS, layer, standardised

SMALL: dict[str, Any] = {"n_rows": (16, 60), "n_columns": (1, 9), "share_sizes": 4}


def same(a: Episodes, b: Episodes) -> bool:
    """Equal bits, in the part of the table that both have; NaN equals NaN."""
    pairs = ((p.x[:, :, : q.x.shape[2]], q.x) for p, q in ((a.support, b.support), (a.query, b.query)))
    equal = all(torch.equal(p.view(torch.int32), q.view(torch.int32)) for p, q in pairs)
    return equal and torch.equal(a.support.y, b.support.y) and torch.equal(a.query.y, b.query.y)


@pytest.mark.parametrize("target", ["classes", "reals"])
def test_a_task_has_the_same_bits_whatever_the_number_of_tasks_in_the_call(target: Any) -> None:
    # every kind of flaw in most tables, so that each has to be a function of the task alone
    prior = TabularPrior(target, **SMALL, categorical=0.9, odd=0.9, missing=0.9, repeated=0.5, warped=0.9)
    whole = prior.sample(Place(8, index=3))
    assert same(prior.sample(Place(8, index=3)), whole)
    for t in range(8):
        group = prior.sample(Place(4, index=3, first=t // 4 * 4))
        one = prior.sample(Place(1, index=3, first=t))
        assert same(group[t % 4 : t % 4 + 1], one), t
        n, d = one.support.x.shape[1:]
        assert torch.equal(whole.support.x[t, :n, :d].nan_to_num(9), one.support.x[0].nan_to_num(9))
        assert bool(whole.support.x[t, :n, d:].isnan().all())
        assert whole.support.mask[t].sum() == n


def test_other_places_have_other_tables() -> None:
    prior, place = TabularPrior(**SMALL), Place(4)
    first = prior.sample(place)
    for other in (
        replace(place, seed=1),
        replace(place, index=1),
        replace(place, split="val"),
        replace(place, first=4),
    ):
        found = prior.sample(other)
        assert found.query.x.shape != first.query.x.shape or not torch.equal(found.query.x, first.query.x)


def test_consecutive_tasks_share_their_sizes_and_all_sizes_are_in_range() -> None:
    prior = TabularPrior(n_rows=(16, 64), n_columns=(2, 6), support=(0.3, 0.9), share_sizes=2)
    sizes = set()
    for first in range(0, 80, 2):
        e = prior.sample(Place(2, first=first))
        n, m, d = e.support.x.shape[1], e.query.x.shape[1], e.query.x.shape[2]
        assert bool(e.support.mask.all())
        assert 16 <= n + m <= 64
        assert 2 <= d <= 6
        assert 0.25 < n / (n + m) < 0.95
        sizes.add((n + m, d))
    assert len(sizes) > 20
    assert {d for _, d in sizes} == {2, 3, 4, 5, 6}


def test_classes_are_those_of_the_support_and_no_query_of_another_is_asked() -> None:
    e = TabularPrior(n_rows=20, n_columns=3, n_classes=(2, 10), support=0.6, share_sizes=200).sample(Place(200))
    assert e.classes is not None
    shown = (e.support.y[..., None] == torch.arange(10)).any(1)
    assert torch.equal(shown, e.classes)
    assert torch.equal(e.classes.gather(1, e.query.y), e.query.mask)
    assert bool(e.query.mask.any(1).all())
    assert not bool(e.query.mask.all())
    assert int(e.classes.sum(1).min()) == 2
    assert int(e.classes.sum(1).max()) > 6
    assert bool((e.classes.long().diff(dim=1) <= 0).all()), "ids are numbered from 0 without gaps"


@pytest.mark.parametrize("rows", [4, 6])
def test_tables_of_few_rows_have_a_query_that_can_be_answered(rows: int) -> None:
    e = TabularPrior(n_rows=rows, n_columns=3, n_classes=(2, 10)).sample(Place(200))
    assert bool(e.query.mask.any(1).all())


@pytest.mark.filterwarnings("error")
def test_without_a_missing_rate_nothing_is_missing() -> None:
    e = TabularPrior(n_rows=20, n_columns=5, missing=1.0, missing_rate=0.0).sample(Place(8))
    assert not bool(e.support.x.isnan().any())


def test_names_of_classes_are_random() -> None:
    """The larger of two classes is class 0 in half of the tasks."""
    e = TabularPrior(n_rows=17, n_columns=2, n_classes=2, support=0.65, share_sizes=800).sample(Place(800))
    assert e.support.y.shape[1] == 11
    share = (e.support.y.float().mean(1) < 0.5).float().mean()
    assert abs(float(share) - 0.5) < 0.06


@pytest.mark.parametrize(
    ("options", "measure", "low", "high"),
    [
        ({"missing": 0}, lambda x: np.isnan(x).mean(), 0, 0),
        ({"missing": 1, "missing_rate": 0.5}, lambda x: np.isnan(x).mean(), 0.05, 0.25),
        ({"missing": 0, "categorical": 0, "warped": 0, "odd": 0}, lambda x: _few(x).mean(), 0, 0.25),
        ({"missing": 0, "categorical": 1, "odd": 0}, lambda x: _few(x).mean(), 0.45, 0.9),
        ({"missing": 0, "odd": 0, "categorical": 0}, lambda x: (x.max(1) == x.min(1)).mean(), 0, 0.03),
        ({"missing": 0, "odd": 1, "categorical": 0}, lambda x: (x.max(1) == x.min(1)).mean(), 0.05, 0.15),
    ],
)
def test_columns_have_the_flaws_that_the_options_say(options: Any, measure: Any, low: float, high: float) -> None:
    e = TabularPrior(n_rows=100, n_columns=8, support=0.5, share_sizes=64, **options).sample(Place(64))
    x = torch.cat([e.support.x, e.query.x], 1).numpy()
    assert low <= measure(x) <= high


def _few(x: Any) -> Any:
    """Which columns `[T, D]` have at most 20 values."""
    return np.array([[len(np.unique(column)) <= 20 for column in table.T] for table in x])


def test_repeated_subjects_have_rows_alike() -> None:
    def nearest(repeated: float) -> float:
        options: Any = {"support": 0.5, "missing": 0, "categorical": 0, "odd": 0, "share_sizes": 40}
        e = TabularPrior(n_rows=60, n_columns=6, repeated=repeated, **options).sample(Place(40))
        x = standardised(torch.cat([e.support.x, e.query.x], 1).numpy())
        apart = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1) + 1e9 * np.eye(60)
        return float(np.median(apart.min(-1)))

    assert nearest(1.0) < 0.9 * nearest(0.0)


@pytest.mark.parametrize("target", ["classes", "reals"])
def test_y_can_be_predicted_from_the_columns_in_most_tables(target: Any) -> None:
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    options: Any = {"support": 0.7, "n_classes": (2, 4), "missing": 0, "share_sizes": 24}
    e = TabularPrior(target, n_rows=200, n_columns=8, **options).sample(Place(24))
    better = []
    for t in range(24):
        x, y = e.support.x[t].numpy(), e.support.y[t].flatten().numpy()
        qx, qy = e.query.x[t].numpy(), e.query.y[t].flatten().numpy()
        forest = (ExtraTreesClassifier if target == "classes" else ExtraTreesRegressor)(30, random_state=0).fit(x, y)
        base = np.bincount(y)[qy].mean() / len(y) if target == "classes" else 0.05
        better.append(forest.score(qx, qy) > base)
    assert np.mean(better) > 0.6


@pytest.mark.parametrize("name", [*FUNCTIONS, "layer"])
def test_a_function_of_a_node_differs_from_task_to_task_and_is_finite(name: str) -> None:
    draws = Place(5).draws("test")
    x = np.repeat(standardised(draws.normal("x", 50, 8).astype(np.float32))[:1], 5, axis=0)
    y = (FUNCTIONS | {"layer": layer})[name](draws, x)
    assert y.shape == x.shape
    assert y.dtype == np.float32
    assert np.isfinite(y).all()
    assert all(not np.array_equal(y[0], y[t]) for t in range(1, 5))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"functions": ()}, "expected functions as at least one name"),
        ({"functions": ("sine",)}, "expected functions"),
        ({"n_columns": 65}, "expected n_columns"),
        ({"n_classes": (2, 11)}, "expected n_classes"),
        ({"noise": (1.0, 0.1)}, "expected noise"),
    ],
)
def test_what_is_senseless_is_named(options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TabularPrior(**options)
