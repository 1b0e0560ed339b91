"""A code for which of K trained tasks this is: told by the descriptor, or inferred from the support by Bayes' rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

import torch
from torch import Tensor, nn

from metabox.checks import checked
from metabox.learners.method import Steps
from metabox.ranges import BelowOne, Positive
from metabox.targets import TaskSpec

if TYPE_CHECKING:
    from metabox.tasks.sampler import EpisodeSampler

CodeKind = Literal["given", "both"]

CODE_OF_TASK: Steps = (
    (
        "code of the task",
        r"\task = \operatorname{onehot}(i), \quad \text{told by } \z \text{, or inferred: } \task_k "
        r"\propto p(k)\, p(\z \mid k) \prod_n p_k(y_n \mid x_n)",
    ),
)
"""How a learner that has a `TaskCode` gets phi, for its `method`."""


class CodeOptions(TypedDict, total=False):
    """The options of `MultiTask`, for the signatures of its subclasses."""

    code: CodeKind
    error: float
    prior: Sequence[float] | None


class TaskCode(nn.Module):
    """The code `[T, K]` of the tasks of a batch, from what is told of them, z.

    code = index + W rest: z begins with the index of a trained task, one-hot, if the spec has an `index_size`, and W is
    a learned linear map of the numbers after it, which are brought to location 0 and scale 1 over the trained tasks
    (with a bias, if there is no index). There is no softmax, so that a task that was never trained may lie outside the
    trained ones. If nothing is told the code is the prior.

    It also says how well z agrees with each trained task, p(z|k): 1 - error if it names task k, error / (K - 1) if it
    names another, and 1 if it is zeros, which tell nothing.

    Args:
        spec: the tasks. Without names there is one task, and its code is 1.
        kind: "given", or "both" if the task may be inferred.
        error: the probability that z names a wrong task.
        prior: the probability of each trained task; by default how often the sampler draws it.

    Raises:
        ValueError: if there is nothing to infer, there is no descriptor, or not one prior for each trained task.
    """

    decayed = ()
    frequency: Tensor  # [K]
    rest: Tensor  # [K, dz - index_size], of the trained tasks
    location: Tensor
    scale: Tensor

    @checked
    def __init__(
        self,
        spec: TaskSpec,
        kind: CodeKind = "given",
        error: BelowOne = 0.01,
        prior: Sequence[Positive] | None = None,
    ) -> None:
        super().__init__()
        k, self.index_size = len(spec.trained), spec.index_size
        if kind == "both" and k < 2:
            raise ValueError(f'expected at least 2 named tasks to infer one of them, got {spec}; use code "given"')
        if spec.tasks and not spec.descriptor_size:
            raise ValueError(f"expected a descriptor for named tasks, from which the code is, got none in {spec}")
        if prior is not None and len(prior) != k:
            raise ValueError(f"expected a prior of each of {k} trained tasks, got {len(prior)}")
        self.spec, self.kind, self.error, self.given_prior, self.n_tasks = spec, kind, error, prior, max(1, k)
        size = spec.descriptor_size - self.index_size if spec.tasks else 0
        self.map = nn.Linear(size, self.n_tasks, bias=not self.index_size) if size else None
        if self.map is not None:
            nn.init.normal_(self.map.weight, std=0.0 if self.index_size else 1 / math.sqrt(size * self.n_tasks))
            if self.map.bias is not None:
                nn.init.normal_(self.map.bias, std=1 / math.sqrt(self.n_tasks))
        self.register_buffer("frequency", torch.ones(self.n_tasks) if prior is None else torch.tensor(list(prior)))
        self.register_buffer("rest", torch.zeros(self.n_tasks, size))
        self.register_buffer("location", torch.zeros(size))
        self.register_buffer("scale", torch.ones(()))

    @property
    def is_index(self) -> bool:
        """Whether a code is the index of a task, one-hot, for every task that is told."""
        return bool(self.spec.tasks) and self.index_size > 0 and self.map is None

    @torch.no_grad()
    def fit(self, tasks: EpisodeSampler) -> None:
        """Keep the descriptors and frequencies of the trained tasks.

        Raises:
            ValueError: if a trained task is told by zeros, which mean that nothing is told.
        """
        known = tasks.trained_tasks()
        if not self.spec.tasks or known is None:
            return
        told, frequency = known
        if self.given_prior is None:
            self.frequency.copy_(frequency)
        if told is None:
            return
        if self.kind == "both" and not self.index_size and (silent := (told == 0).all(1)).any():
            names = [name for name, none in zip(self.spec.trained, silent.tolist(), strict=True) if none]
            raise ValueError(
                f"expected descriptors that are not zeros, which mean that the task is not told, got zeros for "
                f"{', '.join(names)}; put OneHot beside them"
            )
        self.rest.copy_(told)
        spread = (told - told.mean(0)).square().mean().sqrt()
        self.location.copy_(told.mean(0))
        self.scale.copy_(torch.where(spread > 0, spread, 1))

    def forward(self, descriptor: Tensor | None, n_tasks: int, like: Tensor) -> Tensor:
        """z `[T, dz]` -> `[T, K]`."""
        if not self.spec.tasks:
            return torch.ones(n_tasks, 1, device=like.device)
        prior = (self.frequency / self.frequency.sum()).expand(n_tasks, -1)
        if descriptor is None:
            return prior
        index, rest = descriptor.split([self.index_size, descriptor.shape[1] - self.index_size], dim=1)
        code: Tensor = index
        if self.is_index and self.training:
            return code  # every task is told, and what follows would cost more, the more tasks there are
        code = index if self.map is None else self.map((rest - self.location) / self.scale)
        if not self.index_size:
            return code
        code = code if self.map is None else code + index
        return torch.where((descriptor == 0).all(1, keepdim=True), prior, code)

    def of_task(self, k: int) -> Tensor:
        """The code of trained task k, `[1, K]`."""
        index = torch.zeros(1, self.n_tasks, device=self.frequency.device)[:, : self.index_size]
        if self.index_size:
            index[:, k] = 1
        return self.forward(torch.cat([index, self.rest[k : k + 1]], dim=1), 1, self.frequency)

    def log_prior(self, descriptor: Tensor | None, n_tasks: int) -> tuple[Tensor, Tensor]:
        """log p(k) p(z|k) `[T, K]`; and `[T]`, whether z says the task for certain.

        This it does if `error` is 0, or if it describes a task that was not trained.
        """
        log_prior = self.frequency.float().log().log_softmax(0).expand(n_tasks, -1)
        if descriptor is None:
            return log_prior, torch.zeros(n_tasks, dtype=torch.bool, device=log_prior.device)
        index, rest = descriptor.split([self.index_size, descriptor.shape[1] - self.index_size], dim=1)
        same = torch.isclose(rest[:, None], self.rest, rtol=1e-4, atol=1e-6).all(-1)
        names = torch.where((index > 0).any(1, keepdim=True), index > 0, same) if self.index_size else same
        told = (descriptor != 0).any(1)
        named = names.any(1) & told
        wrong = math.log(max(self.error, 1e-38) / (self.n_tasks - 1))
        agrees = torch.where(names, math.log1p(-self.error), wrong)
        certain = told & ~named if self.error else told
        return log_prior + torch.where(named[:, None], agrees, 0.0), certain
