"""Made-up regressions that are described, so that the best predictor of a task that was never trained is known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch

from metabox.arrays import Floats
from metabox.config import Unpack
from metabox.episodes import SPLITS, Device, Episodes
from metabox.ranges import Count, Positive, Whole, Within
from metabox.seeding import Draws
from metabox.targets import Reals, TaskSpec
from metabox.targets.base import task_mean
from metabox.tasks.descriptors import About, Descriptor, Specification
from metabox.tasks.multitask.recommendation import log_normal
from metabox.tasks.named import FiniteOptions, FiniteTasks
from metabox.tasks.place import Place
from metabox.tasks.rows import Rows

TRAITS = ("heat", "light", "salt", "wind", "iron", "sugar")
SIGNS = {-1: "falls with", 0: "ignores", 1: "rises with"}

TaskCount = Annotated[int, Within(least=2, most=3 ** len(TRAITS) - 1)]


class DescribedRegressions(FiniteTasks):
    """Linear regressions whose weights are one linear map of what is told: y = (A s_k)ᵀ x + ε.

    Task k has a sign s_kj of -1, 0 or 1 for each of six traits, no two tasks the same ones; A is the same for all. So
    whoever has learned A from the trained tasks predicts a task of `untrained` without an example of it, as well as
    any predictor can: the best has the mean (A s_k)ᵀ x and the variance of ε, and the `oracle` of an episode is its
    mean log likelihood on the queries. x ~ N(0, I), and A is scaled so that (A s)ᵀ x has variance 1 on average.

    `Metadata` tells the signs as numbers, `Specification` as one of three words for each trait, and `Text` in words:
    "rises with heat, ignores light, ..."; `OneHot` tells no task that is held out.

    Args:
        n_tasks: K, with the names `task-0`, `task-1`, ...
        n_train: training rows of each task.
        n_eval: rows of each task for validation, and as many for test.
        dim: size of x.
        noise: standard deviation of ε.
        descriptor: what a learner is told about a task; by default `Specification`.
        data_seed: another seed gives other tasks. The seed of training does not change them.
        **kwargs: of `FiniteTasks`.
    """

    def __init__(
        self,
        n_tasks: TaskCount = 80,
        n_train: Count = 100,
        n_eval: Count = 50,
        dim: Count = 8,
        noise: Positive = 0.3,
        descriptor: Descriptor | None = None,
        data_seed: Whole = 0,
        **kwargs: Unpack[FiniteOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.n_tasks, self.n_train, self.n_eval, self.data_seed = n_tasks, n_train, n_eval, data_seed
        self.dim, self.noise = dim, noise
        self.descriptor = descriptor or Specification()
        draws = Draws("described regressions", data_seed, n_tasks=1)
        codes = draws.shuffled("codes", np.zeros((1, 3 ** len(TRAITS) - 1), dtype=np.int64))[0, :n_tasks]
        middle = (3 ** len(TRAITS) - 1) // 2  # all traits ignored, which would tell nothing
        codes = codes + (codes >= middle)
        self.signs: Floats = (codes[:, None] // 3 ** np.arange(len(TRAITS)) % 3 - 1).astype(np.float64)
        scale = math.sqrt(dim * len(TRAITS) * 2 / 3)
        self.weights: Floats = self.signs @ draws.normal("map", len(TRAITS), dim)[0] / scale
        """A s_k of each task, `[K, dim]`: with them the best prediction is `weights[k] @ x`."""

    def about(self) -> list[About]:
        """What descriptors can tell of each task."""
        words = [{trait: SIGNS[int(s)] for trait, s in zip(TRAITS, signs, strict=True)} for signs in self.signs]
        return [
            About(
                name=f"task-{k}",
                features=self.signs[k].tolist(),
                text=", ".join(f"{sign} {trait}" for trait, sign in said.items()),
                specification=said,
            )
            for k, said in enumerate(words)
        ]

    def load(self) -> Rows:
        k, n = self.n_tasks, self.n_train + 2 * self.n_eval
        draws, about = Draws("described regressions", "rows", self.data_seed, n_tasks=k), self.about()
        x = draws.normal("x", n, self.dim)
        mean = np.einsum("knd,kd->kn", x, self.weights)
        y = mean + self.noise * draws.normal("noise", n)
        self._log_best = torch.from_numpy(log_normal(y, mean, self.noise).reshape(-1).astype(np.float32))
        told = self.descriptor.beyond_index(about)
        index = self.descriptor.index_size(len(told))
        return Rows(
            x=torch.from_numpy(x.reshape(k * n, self.dim).astype(np.float32)),
            y=torch.from_numpy(y.reshape(k * n, 1).astype(np.float32)),
            split=np.tile(np.repeat(SPLITS, [self.n_train, self.n_eval, self.n_eval]), k),
            spec=TaskSpec(
                (self.dim,),
                Reals(1),
                index + told.shape[1],
                tasks=tuple(task.name for task in about),
                index_size=index,
            ),
            task=np.repeat(np.arange(k), n),
            descriptors=told,
        )

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """A batch of tasks; see `EpisodeSampler.sample`."""
        episodes = super().sample(place)  # on the CPU first: another device rounds the sum differently
        assert episodes.origin is not None
        rows = episodes.origin[:, episodes.support.x.shape[1] :]
        return replace(episodes, oracle=task_mean(self._log_best[rows.clamp(min=0)], episodes.query.mask)).to(device)
