"""Every public constructor refuses what is senseless, and keeps in its record what it is told."""

from __future__ import annotations

import math
from typing import Any

import pytest
from constructors import ELSE, Made, classes, made_of

from metabox import Learner
from metabox.config import Configured
from metabox.nn.backbones import MLP
from metabox.ranges import BelowOne, Count, CountOrRange
from metabox.targets import TaskSpec
from metabox.tasks import Glyphs, Sinusoids
from metabox.testing.options import (
    bad_values,
    check_every_option_is_in_the_record,
    check_senseless_options_are_refused,
    options_of,
    undeclared,
)

CLASSES = classes()
FIXED = {
    "Curriculum": {"tasks"},
    "GradientCosines": {"tasks"},
    "HardSharing": {"at", "film"},
    "TwoStages": {"tasks", "first"},
    "MTAN": {"depth"},
    "Shapes": {"missing"},
    "Sinusoids": {"dim"},
    "Steps": {"dim"},
    "Subset": {"names"},
    "TaskAffinity": {"tasks"},
    "TorchVision": {"name", "weights"},
    "Parts": {"parts"},
    "PerTask": {"tasks", "kinds"},
    "JointLoss": {"learner"},
    "SquaredLoss": {"learner"},
    "Views": {"learner"},
    "Beside": {"parts"},
    "OneHot": set(),
}
"""Options that are not varied here, for they go with nothing else that is."""


@pytest.fixture(params=CLASSES)
def made(request: pytest.FixtureRequest) -> Made:
    return made_of(CLASSES[request.param])


def test_what_is_senseless_is_refused_by_what_was_expected_and_what_came(made: Made) -> None:
    check_senseless_options_are_refused(made.cls, **made.required)


def test_the_record_holds_every_option(made: Made) -> None:
    if made.cls.__name__ in ("MAML", "ANIL", "FromLearn2Learn"):
        pytest.importorskip("learn2learn")
    if issubclass(made.cls, Configured) and made.cls.__name__ != "FromLearn2Learn":
        fixed = check_every_option_is_in_the_record(made.cls, others=ELSE, **made.required)
        assert set(fixed) <= {"spec"} | FIXED.get(made.cls.__name__, set())


class Free(Learner):
    """A user's learner that says nothing of the range of an option, and forgets to check it."""

    def __init__(self, spec: TaskSpec, width: int = 3, rate: float = 0.5) -> None:
        super().__init__(spec)

    def infer(self, support: Any, descriptor: Any, classes: Any) -> Any: ...

    def answer(self, phi: Any, x: Any) -> Any: ...


class Deaf(Configured):
    """Takes whatever it is given, and says so in words of its own."""

    def __init__(self, size: Any = 1) -> None:
        if size != 1:
            raise ValueError("no!")


class Same(Configured):
    """Has a record that leaves an option out."""

    def __init__(self, size: Count = 1) -> None:
        pass

    @property
    def config(self) -> dict[str, Any]:
        return {"class": "Same"}


class Restless(Same):
    made = 0

    @property
    def config(self) -> dict[str, Any]:
        Restless.made += 1
        return {"class": Restless.made}


def test_a_class_that_declares_no_range_or_has_no_record_is_found_out() -> None:
    with pytest.raises(AssertionError, match=r"Free declares no range of width, rate; see metabox.ranges"):
        check_senseless_options_are_refused(Free)
    assert undeclared(MLP) == []
    with pytest.raises(AssertionError, match=r"Same\(size=2\) has the record of the default"):
        check_every_option_is_in_the_record(Same)
    with pytest.raises(AssertionError, match="two equal constructions of Restless have different records"):
        check_every_option_is_in_the_record(Restless)


def test_options_are_found_through_keywords_that_are_handed_on() -> None:
    assert {"image_size", "wobble", "n_way", "names"} <= {option.name for option in options_of(Glyphs)}
    assert {"amplitude", "noise", "dim", "max_points", "share_sizes"} <= {o.name for o in options_of(Sinusoids)}


@pytest.mark.parametrize(
    ("hint", "bad", "good"),
    [
        (Count, [0, 1.5, math.nan, True, None, "a", (), 2**70], [1, 3]),
        (BelowOne, [-1, 1, math.nan, math.inf, True, None, "a"], [0, 0.5]),
        (CountOrRange, [0, (2, 1), (1, "a"), (-1, 2), (), []], [1, (1, 2)]),
        (bool, [0, 1.5, None, "a"], [True]),
        (Count | None, [0, "a"], [None]),
    ],
)
def test_bad_values_are_those_outside_of_the_declared_range(hint: Any, bad: list[Any], good: list[Any]) -> None:
    found = [repr(value) for value in bad_values(hint)]
    assert {repr(value) for value in bad} <= set(found)
    assert not {repr(value) for value in good} & set(found)
