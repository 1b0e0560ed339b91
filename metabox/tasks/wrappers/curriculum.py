"""Tasks that grow in training: few inputs and short prompts first."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace

import torch.nn.functional as F

from metabox.checks import check_fields
from metabox.episodes import Device, Episodes, Examples
from metabox.ranges import Count
from metabox.tasks.functions.linear import LinearFunctions, NormalInputs
from metabox.tasks.place import Place
from metabox.tasks.wrappers.base import Wrapper


@dataclass(frozen=True)
class Growth:
    """A number that begins at `start` and grows by `by` every `every` training steps, up to the size of the tasks.

    Args:
        start: its value at step 0.
        by: how much it grows at once.
        every: steps from one growth to the next.

    Raises:
        ValueError: if a number is below 1.
    """

    start: Count
    by: Count
    every: Count

    def __post_init__(self) -> None:
        check_fields(self)

    def at(self, step: int, end: int) -> int:
        return min(self.start + self.by * (step // self.every), end)


class Curriculum(Wrapper):
    """Functions with few inputs and few points first, more of both later (Garg et al. 2022, appendix A.2).

    At training step i only the first `dims.at(i)` inputs are not 0, and a task has `points.at(i)` points, including the
    query. Both grow to the size of `tasks`, which validation and test have from the start. Step i is the index of the
    `Place`, so a resumed run continues where it was.

    The defaults are the paper's for linear functions. Its two-layer networks and decision trees have 26 points at
    first, and 5 more every 2,000 steps.

    Deviation: a decision tree of few inputs tests only these; in the paper's code it also tests the zeros.

    Args:
        tasks: functions with a fixed number of points, the last of which is the query; train with `StreamLoss`.
        dims: the number of inputs; None for all from the start.
        points: the number of points; None for all from the start.

    Raises:
        ValueError: if n_support has a range, n_query is not 1, or there is a pool; or if a growth starts above the size
            of the tasks, or with fewer inputs than `sparsity`.
    """

    tasks: NormalInputs

    def __init__(
        self,
        tasks: NormalInputs = LinearFunctions(),  # noqa: B008  # it is never changed
        dims: Growth | None = Growth(5, 1, 2000),
        points: Growth | None = Growth(11, 2, 2000),
    ) -> None:
        super().__init__(tasks)
        self.dims, self.points = dims, points
        if len({*tasks.n_support}) > 1 or tasks.n_query != (1, 1):
            raise ValueError(
                f"expected tasks with one number of support points and n_query 1, got n_support {tasks.n_support} and "
                f"n_query {tasks.n_query}; the curriculum says how many points there are"
            )
        if getattr(tasks, "pool", None) is not None:
            raise ValueError("expected tasks without a pool, got one: its functions have all their inputs; drop `pool`")
        least = getattr(tasks, "sparsity", None) or 1
        for name, growth, low, high in (("dims", dims, least, tasks.dim), ("points", points, 1, tasks.n_points)):
            if growth and not low <= growth.start <= high:
                raise ValueError(f"expected {name} to start from {low} to {high}, what the tasks have, got {growth}")

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """The tasks of the step `place.index`; see `EpisodeSampler.sample`."""
        tasks = self.at(place.index) if place.split == "train" else self.tasks
        return self.change(tasks.sample(place, device), place)

    def change(self, episodes: Episodes, place: Place) -> Episodes:
        """Add zeros for the inputs that a task does not have yet."""
        support, query = (self._filled(part) for part in (episodes.support, episodes.query))
        return replace(episodes, support=support, query=query)

    def at(self, step: int) -> NormalInputs:
        """The tasks of a training step, without the inputs that are 0."""
        tasks = copy(self.tasks)
        if self.dims:
            tasks.dim = self.dims.at(step, tasks.dim)
        if self.points:
            tasks.n_support = (self.points.at(step, tasks.n_points) - 1,) * 2
        return tasks

    def _filled(self, examples: Examples) -> Examples:
        return replace(examples, x=F.pad(examples.x, (0, self.tasks.dim - examples.x.shape[-1])))
