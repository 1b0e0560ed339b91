"""The record of constructor arguments, and the run that is told by it."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytest
import torch
from torch import nn

import metabox
from metabox import Learner
from metabox.config import Configured, check_described, differences, identity, plain
from metabox.learners import CNP, NP, TNPD
from metabox.nn.backbones import MLP, Conv4
from metabox.objectives import LatentLoss
from metabox.targets import Reals, TaskSpec
from metabox.tasks import RBF, GaussianProcess, Glyphs, Omniglot, Periodic, Prefetch, Sinusoids


class Base(Configured):
    def __init__(self, a: int = 1, b: Any = "b") -> None:
        self.a, self.b = a, b


class Passing(Base):
    def __init__(self, c: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Setting(Base):
    """Sets what its base takes, and leaves the rest to the caller."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(a=7, **kwargs)


class Hiding(Base):
    def __init__(self, c: int = 3) -> None:
        super().__init__(a=c + 1)


class Changing(Configured):
    def __init__(self, values: list[int]) -> None:
        values.append(0)
        values = []


@runtime_checkable
class Speaks(Protocol):
    def speak(self) -> str: ...


class MixedIn(Speaks, Base):
    def speak(self) -> str:
        return "it does"


class Mixin:
    def __init__(self, size: int = 5) -> None:
        self.size = size


class FromMixin(Mixin, Configured):
    pass


@dataclass(frozen=True)
class Point(Configured):
    x: int
    y: float = 0.5


@dataclass(frozen=True)
class Point3(Point):
    z: int = 0


class Net(nn.Module, Configured):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)


def arguments(made: Configured) -> dict[str, Any]:
    record = dict(made.config)
    assert record.pop("class") == f"{type(made).__module__}.{type(made).__qualname__}"
    return record


@pytest.mark.parametrize(
    ("made", "record"),
    [
        (Base(2), {"a": 2, "b": "b"}),
        (Passing(), {"c": 3, "a": 1, "b": "b"}),
        (Passing(b=5), {"c": 3, "b": 5, "a": 1}),
        (Setting(b=None), {"b": None}),
        (Hiding(4), {"c": 4}),
        (Changing([1, 2]), {"values": [1, 2]}),
        (MixedIn(2), {"a": 2, "b": "b"}),
        (FromMixin(), {"size": 5}),
        (Point(1), {"x": 1, "y": 0.5}),
        (Point3(1, z=2), {"x": 1, "y": 0.5, "z": 2}),
        (Net(3), {"width": 3}),
        (Base(b=Base()), {"a": 1, "b": Base().config}),
        (Base(b=(1, 2.0, {"k": Path("p")})), {"a": 1, "b": [1, 2.0, {"k": "p"}]}),
        (
            Base(b=partial(MLP, depth=3)),
            {"a": 1, "b": {"class": "metabox.nn.backbones.MLP", "depth": 3, "width": 128, "activation": "gelu"}},
        ),
        (Base(b=json.dumps), {"a": 1, "b": "json.dumps"}),
        (Base(b=float("inf")), {"a": 1, "b": "inf"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Configured) else "",
)
def test_the_record_is_what_the_caller_said_with_defaults_filled_in(made: Configured, record: dict[str, Any]) -> None:
    assert arguments(made) == record
    assert json.loads(json.dumps(made.config)) == made.config


@pytest.mark.parametrize("made", [Passing(b=5), Point3(1), Net(3), MixedIn(2), Omniglot(data_root="somewhere")])
def test_copies_and_pickles_have_the_record_of_the_original(made: Configured) -> None:
    for again in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert again.config == made.config
        assert identity(again.config) == identity(made.config)


def test_constructors_keep_their_signatures_and_pythons_own_errors() -> None:
    assert list(inspect.signature(Passing).parameters) == ["c", "kwargs"]
    assert list(inspect.signature(CNP).parameters)[:2] == ["spec", "backbone"]
    with pytest.raises(TypeError, match="unexpected keyword argument 'd'"):
        Base(d=1)  # type: ignore[call-arg]
    assert isinstance(MixedIn(), Speaks)


def test_an_object_made_twice_has_the_record_of_the_second_time() -> None:
    made = Base(2)
    made.__init__(3)  # type: ignore[misc]
    assert made.config["a"] == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(3), torch.ones(3)),
        (torch.zeros(3), torch.zeros(3, 1)),
        (np.zeros(2), np.zeros(2, dtype=np.float32)),
        (np.array(["train", "val"]), np.array(["val", "train"])),
        (np.array(["train", "val"]), np.array(["train", "test"])),
        (np.array(["ab", "c"]), np.array(["a", "bc"])),
        (partial(MLP), partial(MLP, width=64)),
        (MLP, Conv4),
        (RBF(), RBF(length_scale=(0.1, 0.2))),
        (RBF(), Periodic()),
        (json.dumps, json.loads),
        ([1, 2], [2, 1]),
        (1e-3, 2e-3),
        (None, 0),
    ],
)
def test_other_values_make_other_records(one: Any, other: Any) -> None:
    assert plain(one) != plain(other)
    assert plain(one) == plain(copy.deepcopy(one))


def test_a_class_says_the_same_alone_and_as_a_partial_with_its_defaults() -> None:
    assert plain(MLP) == plain(partial(MLP)) == plain(partial(MLP, width=128))


def test_what_wraps_a_sampler_without_changing_it_has_its_record() -> None:
    assert Prefetch(Glyphs(n_way=3)).config == Glyphs(n_way=3).config


def test_where_data_lie_is_no_part_of_what_a_sampler_is() -> None:
    here, there = Omniglot(data_root="here"), Omniglot(data_root="there")
    assert here.config != there.config
    assert identity(here.config) == identity(there.config)
    assert identity(Base(b=here).config) == identity(Base(b=there).config)


@pytest.mark.parametrize(
    "odd", [lambda: 0, np.array([object()]), object(), iter([]), nn.Linear(1, 1), (x for x in "ab")]
)
def test_what_no_later_process_could_compare_is_named(odd: Any) -> None:
    with pytest.raises(ValueError, match=r"stable description, got tasks\.b\[1\] \(.*Configured"):
        check_described(tasks=Base(b=[1, odd]).config)


def test_differences_name_the_argument_within_nested_objects() -> None:
    then, now = Base(b=Point(1)).config, Base(b=Point(2)).config
    assert list(differences(then, now, "tasks")) == ["tasks.b.x: 1 there, 2 now"]
    assert not list(differences(then, copy.deepcopy(then)))


# ------------------------------------------------------------------------- the run

TASKS = Sinusoids(n_support=3, n_query=2)
OUTER = metabox.OuterLoop(steps=1, n_tasks=2, validate_every=1, n_validation=2, precision="32")


def train(out: Path, learner: Any = CNP, tasks: Any = TASKS, **more: Any) -> Learner:
    return metabox.run(tasks, learner, OUTER, out=out, **more)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ({"learner": partial(TNPD, heads=4)}, {"learner": partial(TNPD, heads=1)}, "learner.heads: 4 there, 1 now"),
        ({"learner": partial(CNP, width=16)}, {"learner": CNP}, "learner.width: 16 there, 128 now"),
        (
            {"learner": partial(CNP, backbone=partial(MLP, depth=1))},
            {"learner": partial(CNP, backbone=partial(MLP, depth=2))},
            "learner.backbone.depth: 1 there, 2 now",
        ),
        (
            {"learner": NP, "objective": partial(LatentLoss, n_samples=1)},
            {"learner": NP, "objective": partial(LatentLoss, n_samples=2)},
            "objective.n_samples: 1 there, 2 now",
        ),
        (
            {"tasks": GaussianProcess(kernel=RBF(length_scale=0.2))},
            {"tasks": GaussianProcess(kernel=RBF(length_scale=0.3))},
            r"tasks.kernel.length_scale: 0.2 there, 0.3 now",
        ),
        (
            {"tasks": Prefetch(Sinusoids(n_support=3, n_query=2))},
            {"tasks": Prefetch(Sinusoids(n_support=4, n_query=2))},
            "tasks.n_support: 3 there, 4 now",
        ),
        ({"seed": 0}, {"seed": 1}, "seed: 0 there, 1 now"),
    ],
)
def test_a_run_with_another_option_is_refused_by_its_name(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], says: str
) -> None:
    train(tmp_path, **first)
    train(tmp_path, **first)  # the same goes on, and finds that all is done
    with pytest.raises(ValueError, match=says):
        train(tmp_path, **second)


class Shifted(Sinusoids):
    """Own tasks with a function among the public attributes, as users write them."""

    def __init__(self, shift: Any = np.sin, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shift = shift
        self.also = lambda x: x + 1


def test_public_attributes_that_are_functions_do_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    for _ in range(2):
        train(tmp_path, tasks=Shifted(n_support=3, n_query=2))


def test_a_lambda_among_the_arguments_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got tasks\.shift \(.*<lambda>"):
        train(tmp_path / "run", tasks=Shifted(shift=lambda x: x))
    assert not (tmp_path / "run").exists()


def test_two_specs_of_one_kind_are_told_apart() -> None:
    assert plain(TaskSpec((1,), Reals(1))) != plain(TaskSpec((2,), Reals(1)))
