"""Every learner in the package, every check, every kind of task."""

from typing import Any

import pytest

from metabox.discover import subclasses
from metabox.learners import MAML
from metabox.testing import CHECKS, SPECS

LEARNERS = {found.name: found for found in subclasses("Learner")}


def load(learner: str) -> Any:
    made = LEARNERS[learner].load()
    if issubclass(made, MAML):
        pytest.importorskip("learn2learn", reason=f"{learner} needs the optional package learn2learn")
    return made


def test_the_walk_finds_the_learners() -> None:
    assert {"CNP", "LSTM", "InContext"} <= set(LEARNERS)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("learner", LEARNERS)
def test_learner_conforms(learner: str, kind: str, check: str) -> None:
    made = load(learner)
    if not isinstance(SPECS[kind].target, made.targets):
        return  # refused with a ValueError: see the test below
    CHECKS[check](made, SPECS[kind])


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_learner_refuses_targets_that_it_does_not_declare(learner: str, kind: str) -> None:
    made = load(learner)
    if not isinstance(SPECS[kind].target, made.targets):
        with pytest.raises(ValueError, match="expected a target among"):
            made(SPECS[kind])
