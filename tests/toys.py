"""A small task distribution and learner for tests that train: speed matters, accuracy does not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metabox.episodes import Device, Episodes, Examples
from metabox.learners.base import Learner, Phi
from metabox.targets import Binary, Classes, Reals, TaskSpec
from metabox.targets.parts import Part
from metabox.tasks.place import Place
from metabox.tasks.rows import Rows
from metabox.tasks.sampler import EpisodeSampler


class Signs(EpisodeSampler):
    """Two classes: the positive and the negative numbers of a random direction."""

    spec = TaskSpec((3,), Classes(2))

    def __init__(self) -> None:
        self.n_way = (2, 2)  # a setting that JSON does not restore as it was

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        words = place.draws("signs").words("x", 11, 3)
        u = torch.from_numpy(words).double().div(2**31).sub(1).float()
        direction, x = u[:, :1], u[:, 1:]
        y = ((direction * x).sum(-1) > 0).long()
        return Episodes(
            support=Examples(x=x[:, :6], y=y[:, :6]).to(device), query=Examples(x=x[:, 6:], y=y[:, 6:]).to(device)
        )


class Toy(Learner):
    """Pools the support, with batch norm and dropout, both of which a resumed run must restore."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        self.encode = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))
        self.decode = nn.Sequential(nn.Linear(19, 16), nn.ReLU(), nn.Linear(16, self.n_params))

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        labelled = torch.cat([support.x, nn.functional.one_hot(support.y, 2).float()], -1)
        return {"code": self.encode(labelled.flatten(0, 1)).view(*support.mask.shape, -1).mean(1)}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        return self.decode(torch.cat([x, phi["code"][:, None].expand(-1, x.shape[1], -1)], -1))


PARTS = (
    Part("walls", Classes(3), (2, 2), weight=0.5),
    Part("depth", Reals(1), (2, 2)),
    Part("tags", Binary(2)),
    Part("speed", Reals(2), weight=2.0),
    Part("kind", Classes(4)),
)


def made_parts(n_tasks: int, n: int, seed: int = 0) -> Tensor:
    """Targets of PARTS `[n_tasks, n, 13]`, a quarter of all numbers missing; the first example is complete."""
    random = torch.Generator().manual_seed(seed)
    columns = []
    for part in PARTS:
        shape = (n_tasks, n, part.columns)
        if isinstance(part.target, Reals):
            columns.append(torch.randn(shape, generator=random))
        else:
            most = part.target.n_classes or 2
            columns.append(torch.randint(most, shape, generator=random).float())
    y = torch.cat(columns, -1)
    missing = torch.rand(y.shape, generator=random) < 0.25
    missing[:, 0] = False
    return y.masked_fill(missing, math.nan)


def named_rows(n: int = 60, **kwargs: Any) -> Rows:
    """Three named tasks of 6, 24 and 30 rows; a row's x is its index; half are train, a quarter each val and test."""
    return Rows(
        x=torch.arange(n).float()[:, None],
        y=torch.arange(n) % 3,
        split=np.array(["train", "train", "val", "test"])[np.arange(n) % 4],
        spec=TaskSpec((1,), Classes(3), descriptor_size=3, tasks=("a", "b", "c"), index_size=3),
        task=np.repeat([0, 1, 2], [6, 24, 30]),
        descriptors=torch.eye(3),
        **kwargs,
    )
