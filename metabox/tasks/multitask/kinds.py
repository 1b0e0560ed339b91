"""Made-up tasks with rows and kinds of target of their own: a class, numbers and yes/no labels."""

from __future__ import annotations

import math

import numpy as np
import torch

from metabox.arrays import Floats
from metabox.config import Unpack
from metabox.episodes import SPLITS
from metabox.ranges import Count, Positive, Whole
from metabox.seeding import Draws
from metabox.targets import Binary, Classes, Reals, Target, TaskSpec
from metabox.tasks.joined import join_tasks
from metabox.tasks.named import FiniteOptions, FiniteTasks
from metabox.tasks.rows import Rows


class Kinds(FiniteTasks):
    """Three tasks with rows of their own, joined by `join_tasks`: `which` of four classes, `how_much`, and `marks`.

    They share a hidden layer, h = tanh(A x), which each reads with weights of its own, so that a task of few rows can
    learn from the others. `which` is the largest of four numbers, `how_much` two reals with normal noise, and `marks`
    three signs.

    Args:
        n_train: training rows of each task, in that order.
        n_eval: rows of each task for validation, and as many for test.
        dim: size of x.
        hidden: size of h.
        noise: standard deviation of the noise of `how_much`.
        data_seed: another seed gives other tasks. The seed of training does not change them.
        **kwargs: of `FiniteTasks`.
    """

    def __init__(
        self,
        n_train: tuple[Count, Count, Count] = (400, 400, 60),
        n_eval: Count = 200,
        dim: Count = 16,
        hidden: Count = 4,
        noise: Positive = 0.1,
        data_seed: Whole = 0,
        **kwargs: Unpack[FiniteOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.n_train, self.n_eval, self.data_seed = n_train, n_eval, data_seed
        self.dim, self.hidden, self.noise = dim, hidden, noise

    def load(self) -> Rows:
        shared = Draws("kinds", self.data_seed, n_tasks=1).normal("shared", self.hidden, self.dim)[0]
        shared = shared * 1.5 / math.sqrt(self.dim)
        targets: dict[str, Target] = {"which": Classes(4), "how_much": Reals(2), "marks": Binary(3)}
        rows = {}
        for k, (name, target) in enumerate(targets.items()):
            draws = Draws("kinds", name, self.data_seed, n_tasks=1)
            n = self.n_train[k] + 2 * self.n_eval
            x = draws.normal("x", n, self.dim)[0]
            own = draws.normal("own", self.hidden, target.size)[0]
            label = self._labels(name, np.tanh(x @ shared.T) @ own, draws)
            split = np.repeat(SPLITS, [self.n_train[k], self.n_eval, self.n_eval])
            y = torch.from_numpy(label).long() if name == "which" else torch.from_numpy(label).float()
            spec = TaskSpec((self.dim,), target)
            rows[name] = Rows(x=torch.from_numpy(x).float(), y=y, split=split, spec=spec)
        return join_tasks(rows)

    def _labels(self, name: str, values: Floats, draws: Draws) -> Floats:
        if name == "which":
            classes: Floats = values.argmax(1).astype(np.float64)
            return classes
        if name == "marks":
            return (values > 0).astype(np.float64)
        noisy: Floats = values + self.noise * draws.normal("noise", *values.shape)[0]
        return noisy
