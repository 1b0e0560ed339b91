"""Tasks that grow while training goes on: few inputs and short prompts first."""

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
    """A number that begins at `start` and grows by `by` every `every` training steps, up to what the tasks have.

    Args:
        start: its value at step 0.
        by: how much it grows at once.
        every: steps from one growth to the next.

    Raises:
        ValueError: for numbers below 1.
    """

    start: Count
    by: Count
    every: Count

    def __post_init__(self) -> None:
        check_fields(self)

    def at(self, step: int, end: int) -> int:
        return min(self.start + self.by * (step // self.every), end)


class Curriculum(Wrapper):
    """Functions of few inputs and with few points first, more of both later (Garg et al. 2022, appendix A.2).

    At training step i the function depends on the first `dims.at(i)` inputs alone, the others are 0, and a task has
    `points.at(i)` points, the query included. Both end at what `tasks` has; validation and test have that from the
    start. Step i is the sampler's index, so a resumed run goes on where it was.

    The defaults are the paper's for linear functions. Its two-layer networks and decision trees have 26 points at
    first, and 5 more every 2,000 steps.

    Deviation: a decision tree of few inputs asks for these alone, where in the paper's code it also asks for the zeros.

    Args:
        tasks: functions with a fixed number of points, the last of which is the query; train with `StreamLoss`.
        dims: the number of inputs; all from the start, where it is None.
        points: the number of points; all from the start, where it is None.

    Raises:
        ValueError: if n_support has a range or n_query is not 1, where there is a pool, or a growth starts above
            what the tasks have, or at fewer inputs than `sparsity`.
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
        """The inputs that a task does not have yet as zeros."""
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
