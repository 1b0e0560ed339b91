"""Where a batch stands: what a place refuses, and that its draws are those of its address."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from toys import Signs

from metabox import Place, evaluate
from metabox.learners import CNP
from metabox.seeding import WORD, Draws


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"n_tasks": 0}, "n_tasks as a whole number of at least 1, got 0"),
        ({"n_tasks": -3}, "n_tasks as a whole number of at least 1, got -3"),
        ({"n_tasks": 1.5}, "n_tasks as a whole number of at least 1, got 1.5"),
        ({"n_tasks": True}, "n_tasks as a whole number of at least 1, got True"),
        ({"n_tasks": None}, "n_tasks as a whole number of at least 1, got None"),
        ({"split": "training"}, "split as one of 'train', 'val', 'test', got 'training'"),
        ({"split": "tst"}, "split as one of 'train', 'val', 'test', got 'tst'"),
        ({"split": None}, "split as one of 'train', 'val', 'test', got None"),
        ({"split": ["train"]}, r"split as one of 'train', 'val', 'test', got \['train'\]"),
        ({"index": -1}, "index as a whole number of at least 0, got -1"),
        ({"index": 2.0}, "index as a whole number of at least 0, got 2.0"),
        ({"first": -1}, "first as a whole number of at least 0, got -1"),
        ({"first": WORD}, f"task numbers of at most {WORD}, got {WORD + 3}; use a new `index`"),
        ({"seed": "a"}, "seed as a whole number, got 'a'"),
        ({"seed": 1.5}, "seed as a whole number, got 1.5"),
        ({"seed": True}, "seed as a whole number, got True"),
        ({"seed": 2**70}, "seed as a whole number, got 1180591620717411303424"),
    ],
)
def test_a_place_that_is_none_is_refused_with_what_was_expected(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=f"^expected {said}"):
        Place(**({"n_tasks": 4} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "training"}, "split as one of"),
        ({"seed": "a"}, "seed as a whole number"),
        ({"n_tasks": 2.5}, "n_tasks as"),
    ],
)
def test_evaluation_refuses_what_a_place_refuses(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        evaluate(CNP(Signs.spec), Signs(), **({"n_tasks": 2} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [4, "train", None, {"n_tasks": 4}])
def test_a_sampler_says_what_a_place_is(given: object) -> None:
    with pytest.raises(ValueError, match=r"expected a metabox.Place, got .*; write sample\(Place\(n_tasks=4"):
        Signs().sample(given)  # type: ignore[arg-type]


def test_a_place_is_a_value() -> None:
    one, same = Place(4, "val", seed=np.int64(3)), Place(4, "val", index=0, first=0, seed=3)  # type: ignore[arg-type]
    assert one == same
    assert len({one, same, replace(one, index=1)}) == 2
    assert type(one.seed) is int  # a draw's address is its text
    with pytest.raises(FrozenInstanceError):
        one.seed = 4  # type: ignore[misc]


def test_draws_are_those_of_the_address_seed_split_and_index() -> None:
    place = Place(3, "val", index=7, first=2, seed=9)
    by_hand = [Draws("who", "what", 9, "val", index, n_tasks=3, first=2).words("x", 4) for index in (7, 8)]
    assert np.array_equal(place.draws("who", "what").words("x", 4), by_hand[0])
    assert np.array_equal(place.draws("who", "what", n_indices=2).words("x", 4), np.concatenate(by_hand))
