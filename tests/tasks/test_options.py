"""Arguments that a task distribution hands on to its base: a type checker knows those that a recipe may give."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any, get_type_hints

import pytest
from jsonargparse import ArgumentParser

from metabox import discover
from metabox.tasks.named import InMemory
from metabox.tasks.sampler import EpisodeSampler

OPTIONS = re.compile(r"Unpack\[(\w+)\]")


def handed_on(sampler: type[EpisodeSampler]) -> type | None:
    """The TypedDict in `**kwargs: Unpack[Options]` of the constructor."""
    for parameter in inspect.signature(sampler).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD and (said := OPTIONS.fullmatch(str(parameter.annotation))):
            return getattr(sys.modules[sampler.__init__.__module__], said[1])
    return None


SAMPLERS = [found.load() for found in discover.subclasses("EpisodeSampler")]
CASES = [sampler for sampler in SAMPLERS if handed_on(sampler)]


@pytest.mark.parametrize("sampler", CASES, ids=lambda sampler: sampler.__name__)
def test_the_options_of_the_base_are_those_that_a_recipe_may_give(sampler: type[EpisodeSampler]) -> None:
    options = handed_on(sampler)
    own = [p.name for p in inspect.signature(sampler).parameters.values() if p.kind is not p.VAR_KEYWORD]
    given = ArgumentParser().add_class_arguments(sampler, skip={"rows"} if sampler is InMemory else set())
    assert sorted([*own, *options.__annotations__]) == sorted([*given, *(["rows"] if sampler is InMemory else [])])
    for base in sampler.__mro__[1:]:
        if "__init__" in vars(base) and handed_on(base) is None:
            taken: dict[str, Any] = get_type_hints(base.__init__)
            assert get_type_hints(options) == {name: taken[name] for name in options.__annotations__}
            return


def test_the_options_of_images_and_of_named_tasks_are_known() -> None:
    assert {"Omniglot", "CIFARFS", "ClassFolder", "CelebA", "InMemory"} <= {sampler.__name__ for sampler in CASES}


def test_a_recipe_may_not_name_the_options_themselves() -> None:
    names = {found.name for found in discover.nameable()}
    assert "Omniglot" in names
    assert not [name for name in names if name.endswith("Options")]
