"""Real vectors whose loss and likelihood depend on the named task."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metabox.targets.base import Target
from metabox.targets.vector import RealVector


class PerTask(RealVector):
    """A kind of real vector for each named task, all with the same number of parameters.

    `PerTask(("price", "rent"), (Laplace(1), Huber(1)))`: one output layer, L1 for one task and Huber's loss for the
    other. What belongs to a row is known to objectives and evaluations, which say the task of each; elsewhere use the
    target of one task, `of_task`.

    Args:
        tasks: the names, as in the spec.
        kinds: of each of them, such as `Laplace(1)`, without statistics of the labels.

    Raises:
        ValueError: if there is not one kind for each name, or sizes or numbers of parameters differ; by methods that
            read parameters, if the task of each row is not known.
    """

    def __init__(self, tasks: Sequence[str], kinds: Sequence[RealVector]) -> None:
        self.tasks, self.kinds = tuple(tasks), tuple(kinds)
        if not self.kinds or len(self.tasks) != len(self.kinds) or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"expected a kind for each of some names, got {list(tasks)} and {list(kinds)}")
        if wrong := [kind for kind in self.kinds if not isinstance(kind, RealVector) or kind.statistics is not None]:
            raise ValueError(f"expected kinds of real numbers without statistics of the labels, got {wrong}")
        if len({(kind.size, kind.n_params) for kind in self.kinds}) > 1:
            raise ValueError(
                f"expected kinds of one size and number of parameters, got {[(k, k.n_params) for k in self.kinds]}; "
                "use Reals(..., noise=1) beside Laplace or Huber"
            )
        super().__init__(self.kinds[0].size)
        self.learned_scale = any(kind.learned_scale for kind in self.kinds)
        self.has_density = all(kind.has_density for kind in self.kinds)

    @property
    def n_params(self) -> int:
        return self.kinds[0].n_params

    @property
    def single(self) -> Target:
        raise ValueError("expected one kind in a part, got one for each task; name the kind of the part")

    def of_task(self, name: str) -> Target:
        if name not in self.tasks:
            raise ValueError(f"expected a task among {list(self.tasks)}, got {name!r}")
        return self.kinds[self.tasks.index(name)]

    def for_tasks(self, task: Tensor | None, names: Sequence[str]) -> Target:
        if task is None:
            return self
        return _Bound(self, torch.tensor([self.kinds.index(self.of_task(n)) for n in names], device=task.device)[task])

    def _unknown(self) -> ValueError:
        return ValueError("expected the task of each row, got none; use of_task(name), the target of one task")

    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        raise self._unknown()

    def loss(self, params: Tensor, y: Tensor) -> Tensor:
        raise self._unknown()

    def mean(self, params: Tensor) -> Tensor:
        raise self._unknown()

    def std(self, params: Tensor) -> Tensor:
        raise self._unknown()

    def quantile(self, params: Tensor, q: float | Tensor) -> Tensor:
        raise self._unknown()

    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        raise self._unknown()

    def mixture(self, params: Tensor, weights: Tensor | None = None) -> Tensor:
        raise self._unknown()


class _Bound(PerTask):
    """The same for rows of known tasks: kind `[T]` of each row of a batch."""

    def __init__(self, of: PerTask, kind: Tensor) -> None:
        super().__init__(of.tasks, of.kinds)
        self.kind = kind

    def _each(self, function: Callable[[RealVector], Tensor]) -> Tensor:
        """What a function of the kind gives for its rows: `[T, ...]`."""
        found: Tensor | None = None
        for k in dict.fromkeys(map(self.kinds.index, self.kinds)):
            value = function(self.kinds[k])
            mine = (self.kind == k).view(-1, *[1] * (value.ndim - 1))
            found = value if found is None else torch.where(mine, value, found)
        assert found is not None
        return found

    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        return self._each(lambda kind: kind.log_prob(params, y))

    def loss(self, params: Tensor, y: Tensor) -> Tensor:
        return self._each(lambda kind: kind.loss(params, y))

    def error(self, params: Tensor, y: Tensor) -> Tensor:
        return self._each(lambda kind: kind.error(params, y))

    def mean(self, params: Tensor) -> Tensor:
        return self._each(lambda kind: kind.mean(params))

    def std(self, params: Tensor) -> Tensor:
        return self._each(lambda kind: kind.std(params))

    def quantile(self, params: Tensor, q: float | Tensor) -> Tensor:
        return self._each(lambda kind: kind.quantile(params, q))

    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Those of every kind, NaN for the rows of others."""
        found: dict[str, Tensor] = {}
        for k in dict.fromkeys(map(self.kinds.index, self.kinds)):
            mine = (self.kind == k)[:, None]
            for name, value in self.kinds[k].scores(params, y).items():
                before = found.get(name, torch.full_like(value, math.nan))
                found[name] = torch.where(mine, value, before)
        return found
