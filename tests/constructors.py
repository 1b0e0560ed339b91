"""Every public class with options, found by walking the package, and its required arguments."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from metabox import OuterLoop
from metabox.data.augment import RandomFlip
from metabox.discover import subclasses
from metabox.learners import NP, TNPA, ProtoNet
from metabox.nn.backbones import MLP, Flatten
from metabox.nn.conditioning import Add
from metabox.recipe import Claim
from metabox.targets import Classes, Huber, Laplace, Part, Reals, TaskSpec
from metabox.tasks import RBF, Glyphs, LinearFunctions
from metabox.tasks.descriptors import About, Metadata, NGrams, OneHot
from metabox.tasks.multitask.regressions import DescribedRegressions
from metabox.tasks.place import Place
from metabox.tasks.rows import Rows
from metabox.tasks.wrappers.curriculum import Growth
from metabox.testing import SPECS

BASES = (
    *("Learner", "EpisodeSampler", "Backbone", "Target", "Objective", "Weighting", "Augmentation", "Descriptor"),
    *("Kernel", "Conditioner", "Hook"),
)
OTHERS: tuple[type, ...] = (OuterLoop, Place, TaskSpec, Part, Growth, About, Claim, Rows, NGrams)
REALS = TaskSpec((2,), Reals(1))


class Made(NamedTuple):
    """A class and its required arguments."""

    cls: Any
    required: dict[str, Any]


def _rows() -> dict[str, Any]:
    split = np.array(["train", "val", "test"] * 4)
    return {"x": torch.zeros(12, 2), "y": torch.zeros(12, 1), "split": split, "spec": REALS}


def _required(name: str) -> Any:
    """A value for an argument without a default."""
    made = {
        "spec": lambda: REALS,
        "x_shape": lambda: (1, 32, 32),
        "size": lambda: 3,
        "backbone": lambda: MLP,
        "learner": lambda: NP(REALS, width=8, latent=4),
        "n_losses": lambda: 3,
        "features": lambda: 4,
        "code": lambda: 4,
        "tasks": lambda: Glyphs(n_way=2),
        "images": lambda: Glyphs(n_way=2),
        "steps": lambda: [RandomFlip()],
        "parts": lambda: [OneHot()],
        "path": lambda: str(Path(__file__).parent),
        "rows": lambda: Rows(**_rows()),
        "n_tasks": lambda: 4,
        "target": lambda: Reals(1),
        "name": lambda: "a",
        "metric": lambda: "accuracy",
        "value": lambda: 99.0,
        "source": lambda: "nowhere",
        "start": lambda: 1,
        "by": lambda: 1,
        "every": lambda: 1,
        "ways": lambda: Growth(1, 1, 100),
        "n_way": lambda: 2,
        "n_shot": lambda: 1,
    }
    return made[name]()


ELSE: dict[str, Any] = {
    "backbone": Flatten,
    "augment": RandomFlip(),
    "names": 40,
    "max_points": 300,
    "descriptor": Metadata(),
    "images": Glyphs(n_way=3),
    "kernel": RBF(0.5),
    "encoder": NGrams(64),
    "weights": (1.0, 2.0, 3.0),
    "levels": (0.1, 0.9),
    "drawers": (10, 5, 5),
    "splits": (0.5, 0.25, 0.25),
    "untrained": ("a",),
    "fractions": (0.5, 0.25, 0.25),
    "support_split": "val",
    "prior": (0.2, 0.3, 0.5),
    "kind": "both",
    "tasks": Glyphs(n_way=3),
    "condition": Add,
    "attention": ((4, 4),),
    "rows": Rows(**_rows() | {"x": torch.ones(12, 2)}),
    "learner": NP(REALS, width=16, latent=4),
    "steps": [RandomFlip(0.25)],
    "dims": Growth(6, 1, 2000),
    "points": Growth(12, 2, 2000),
    "ways": Growth(2, 1, 300),
    "functions": ("linear", "trees"),
}
"""Values that are no class's default, by the name of an option."""

SPECIAL: dict[str, dict[str, Any]] = {
    "TaskSpec": {"x_shape": (2,), "target": Reals(1)},
    "Conv1d": {"x_shape": (3, 40)},
    "DilatedConv1d": {"x_shape": (3, 40)},
    "PerTask": {"tasks": ("a", "b"), "kinds": (Laplace(2), Huber(2))},
    "Parts": {"parts": (Part("a", Classes(3)), Part("b", Reals(2)))},
    "JointLoss": {"learner": TNPA(REALS, width=8, depth=1, heads=2, feed_forward=8)},
    "SquaredLoss": {"learner": ProtoNet(SPECS["classes of vectors"])},
    "Subset": {"tasks": DescribedRegressions(n_tasks=3), "names": ("task-0",)},
    "Views": {"learner": ProtoNet(SPECS["classes of images"])},
    "Rows": _rows(),
    "Curriculum": {"tasks": LinearFunctions()},
    "TwoStages": {"tasks": LinearFunctions(), "first": LinearFunctions(), "until": 2},
    "RandomProjections": {"tasks": LinearFunctions()},
    "FromLearn2Learn": {"train": [], "n_way": 2, "n_shot": 1},
}


def _spec_of(learner: Any) -> TaskSpec:
    """A small spec that a learner accepts."""
    named = {"HardSharing", "CrossStitch", "Independent", "SoftSharing", "MMoE", "PLE"}
    kinds = ["named tasks"] if learner.__name__ in named else [*SPECS]
    specs = [SPECS[kind] for kind in kinds if isinstance(SPECS[kind].target, learner.targets)]
    if learner.__name__ == "ConvCNP":
        return TaskSpec((1,), Reals(1))
    return specs[0]


def made_of(cls: Any) -> Made:
    if cls.__name__ in SPECIAL:
        return Made(cls, SPECIAL[cls.__name__])
    required = {
        p.name: _spec_of(cls) if p.name == "spec" and hasattr(cls, "targets") else _required(p.name)
        for p in inspect.signature(cls).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    return Made(cls, required)


def classes() -> dict[str, Any]:
    """Name to class, except those that are made from a run folder."""
    found = {f"{base}.{found.name}": found.load() for base in BASES for found in subclasses(base)}
    found |= {cls.__name__: cls for cls in OTHERS}
    return {name: cls for name, cls in found.items() if cls.__name__ not in ("FromRun", "Vector")}
