"""The one interface of every learner: `phi = adapt(D_tr, z)`, `params = predict(phi, x)`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metabox.config import Configured
from metabox.episodes import Episodes, Examples, Target, TaskSpec

Phi = dict[str, Tensor]
"""Task parameters: named tensors, each with the task axis T in front. Slice, cache, move and save them as such."""


class Learner(nn.Module, Configured, ABC):
    """Maps the support of a task to its parameters phi, and phi with query inputs to predictions.

    A subclass implements `adapt` and `predict`, starts them with `support = self.check(support, descriptor)`
    and `self.check_x(phi, x)`, and keeps nothing of a task on the module. Its constructor begins with
    `(spec, n_params)`: the kind of task, and the number P of natural parameters per query point
    that the likelihood reads.
    """

    targets: ClassVar[tuple[Target, ...]] = ("class", "real", "binary")
    """The kinds of target it can predict."""
    ordered: ClassVar[bool] = False
    """True where the order of the support carries meaning."""
    transductive: ClassVar[bool] = False
    """True where queries may see each other."""
    label_equivariant: ClassVar[bool] = False
    """True where renaming the classes renames the predictions, and does nothing else."""
    reads_support: bool = True
    """False where the support is left out, and only a descriptor tells what the task is."""
    requires: ClassVar[str | None] = None
    """The name of an optional package that it needs."""

    def __init__(self, spec: TaskSpec, n_params: int) -> None:
        super().__init__()
        if n_params < 1:
            raise ValueError(f"expected n_params of at least 1, got {n_params}; use likelihood_for(spec).n_params")
        if spec.target not in self.targets:
            raise ValueError(f"expected a target among {self.targets} for {type(self).__name__}, got {spec.target!r}")
        self.spec = spec
        self.n_params = n_params

    @abstractmethod
    def adapt(self, support: Examples, descriptor: Tensor | None = None) -> Phi:
        """D_tr `[T, N, ...]` and z `[T, dz]` to phi. N = 0 is legal.

        Raises:
            ValueError: where the support is not of the kind that the learner was built for.
        """

    @abstractmethod
    def predict(self, phi: Phi, x: Tensor) -> Tensor:
        """phi and query inputs `[T, M, *x_shape]` to natural parameters `[T, M, P]`, all queries in one pass.

        Raises:
            ValueError: where x is not of the shape that the learner was built for.
        """

    def stream(self, examples: Examples, descriptor: Tensor | None = None) -> Tensor:
        """Predictions `[T, N, P]` while a sequence comes in: step t sees examples[:t] and x[t]."""
        # Slow and correct, one adaptation a step; learners with a fast path override it.
        steps = [
            self.predict(self.adapt(examples[:, :t], descriptor), examples.x[:, t : t + 1])
            for t in range(examples.x.shape[1])
        ]
        return torch.cat(steps, dim=1)

    def penalty(self) -> Tensor | None:
        """What the parameters themselves add to the loss of every task, a number; None for nothing."""
        return None

    def describe(self, episodes: Episodes) -> dict[str, Any]:
        """What a result file should say of how it works on some tasks, as JSON has it; nothing here."""
        return {}

    def forward(self, episodes: Episodes) -> Tensor:
        """Predictions `[T, M, P]` for the queries of a batch of tasks."""
        return self.predict(self.adapt(episodes.support, episodes.descriptor), episodes.query.x)

    def check(self, support: Examples, descriptor: Tensor | None = None) -> Examples:
        """The support with its padding blanked, or a ValueError where it is not of the learner's kind."""
        self.spec.check(support, descriptor, values=self._reads_values())
        return support.blanked()

    def check_x(self, phi: Phi, x: Tensor) -> None:
        self.spec.check_x(x, values=self._reads_values())
        tasks = next(iter(phi.values())).shape[0]
        if tasks != x.shape[0]:
            raise ValueError(
                f"expected x for the {tasks} tasks that phi was made from, got {x.shape[0]}; "
                "slice phi alike: {k: v[i:j] for k, v in phi.items()}"
            )

    def _reads_values(self) -> bool:
        # Reading a number waits for the device: fine when serving, too dear in a training step.
        return not self.training and not torch.compiler.is_compiling()
