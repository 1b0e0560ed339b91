"""`TwoStages`: which tasks come when."""

from __future__ import annotations

import pytest
import torch

from metabox import Episodes, Place
from metabox.tasks import TabularPrior, TwoStages

SMALL, LARGE = (TabularPrior(n_rows=rows, n_columns=3, n_classes=2, share_sizes=2) for rows in (8, 20))


def same(a: Episodes, b: Episodes) -> bool:
    return a.support.x.shape == b.support.x.shape and torch.equal(a.support.x.nan_to_num(), b.support.x.nan_to_num())


@pytest.mark.parametrize(
    ("split", "index", "expected"),
    [("train", 0, SMALL), ("train", 4, SMALL), ("train", 5, LARGE), ("val", 0, LARGE), ("test", 0, LARGE)],
)
def test_the_second_stage_begins_at_its_step_and_is_validated(split: str, index: int, expected: TabularPrior) -> None:
    place = Place(2, split, index=index)  # type: ignore[arg-type]
    assert same(TwoStages(LARGE, SMALL, until=5).sample(place), expected.sample(place))


def test_stages_of_different_specs_are_refused() -> None:
    with pytest.raises(ValueError, match="expected both stages with the same spec"):
        TwoStages(LARGE, TabularPrior(n_columns=4), until=5).sample(Place(2))
