"""Every learner in the package, every check, every kind of task."""

import inspect
from functools import partial
from typing import Any

import pytest

from metabox.discover import subclasses
from metabox.learners import MAML
from metabox.nn.backbones import Conv4
from metabox.testing import CHECKS, SPECS

LEARNERS = {found.name: found for found in subclasses("Learner")}


def load(learner: str) -> Any:
    made = LEARNERS[learner].load()
    if issubclass(made, MAML):
        pytest.importorskip("learn2learn", reason=f"{learner} needs the optional package learn2learn")
    return made


def slim(x_shape: tuple[int, ...]) -> Conv4:
    """A quarter of the default's arithmetic."""
    return Conv4(x_shape, width=32)


def test_the_walk_finds_the_learners() -> None:
    assert {"CNP", "LSTM", "InContext"} <= set(LEARNERS)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("learner", LEARNERS)
def test_learner_conforms(learner: str, check: str) -> None:
    """On every kind of task that it declares; thousands of tests of some milliseconds each would cost as much again."""
    made, wrong = load(learner), dict[str, Exception]()
    for kind, spec in SPECS.items():
        if not isinstance(spec.target, made.targets):
            continue  # refused with a ValueError: see the test below
        takes_steps = kind == "classes of images" and "small_family" in check  # hundreds, for a transformer
        slimmer = takes_steps and "backbone" in inspect.signature(made).parameters
        try:
            CHECKS[check](partial(made, backbone=slim) if slimmer else made, spec)
        except Exception as error:
            wrong[kind] = error
    if wrong:
        raise AssertionError(f"{learner}: {wrong}") from next(iter(wrong.values()))


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_learner_refuses_targets_that_it_does_not_declare(learner: str) -> None:
    made = load(learner)
    for spec in SPECS.values():
        if not isinstance(spec.target, made.targets):
            with pytest.raises(ValueError, match="expected a target among"):
                made(spec)
