"""What the conformance checks are made on: kinds of task, random episodes, learners with random weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.checks import checked
from metabox.episodes import Episodes, Examples
from metabox.learners.base import Learner
from metabox.learners.multitask.multitask import MultiTask
from metabox.ranges import Count, Natural
from metabox.targets import Binary, Classes, Part, Parts, Reals, Target, TaskSpec

MakeLearner = Callable[[TaskSpec], Learner]

SPECS = {
    "classes of vectors": TaskSpec((4,), Classes(3)),
    "classes of images": TaskSpec((1, 16, 16), Classes(3)),
    "reals": TaskSpec((2,), Reals(2)),
    "binary labels": TaskSpec((4,), Binary(2)),
    "classes with a descriptor": TaskSpec((4,), Classes(3), descriptor_size=2),
    "reals with a descriptor": TaskSpec((2,), Reals(1), descriptor_size=3),
    "named parts": TaskSpec((4,), Parts((Part("kind", Classes(3)), Part("place", Reals(2)), Part("marks", Binary(2))))),
    "named tasks": TaskSpec((4,), Classes(3), descriptor_size=3, tasks=("a", "b", "c"), index_size=3),
}


@checked
def make_episodes(
    spec: TaskSpec, n_tasks: Count = 3, n_support: Natural = 6, n_query: Count = 4, seed: Natural = 0
) -> Episodes:
    """Random episodes for a spec; with enough support examples every class has some."""
    random = torch.Generator().manual_seed(seed)

    def examples(n: int) -> Examples:
        if len(spec.x_shape) == 3:
            x = torch.randint(256, (n_tasks, n, *spec.x_shape), generator=random, dtype=torch.uint8)
        else:
            x = torch.randn(n_tasks, n, *spec.x_shape, generator=random).clamp(-2, 2)  # in the domain of ConvCNP
        return Examples(x=x, y=_labels(spec.target, n_tasks, n, random))

    z = torch.randn(n_tasks, spec.descriptor_size, generator=random) if spec.descriptor_size else None
    task = torch.arange(n_tasks) % len(spec.tasks) if spec.tasks else None
    if z is not None and spec.index_size:
        trained = torch.arange(n_tasks) % spec.index_size
        z[:, : spec.index_size] = F.one_hot(trained, spec.index_size)
        task = torch.tensor([spec.tasks.index(name) for name in spec.trained])[trained]
    return Episodes(support=examples(n_support), query=examples(n_query), descriptor=z, task=task)


def _labels(target: Target, n_tasks: int, n: int, random: torch.Generator) -> Tensor:
    """Random labels; with parts, every fifth number is missing on average."""
    if target.parts:
        columns = [_numbers(part.target, (n_tasks, n, part.columns), random) for part in target.parts]
        y = torch.cat(columns, dim=-1)
        return y.masked_fill(torch.rand(y.shape, generator=random) < 0.2, math.nan)
    if target.n_classes is not None:
        return torch.stack([torch.randperm(n, generator=random) % target.n_classes for _ in range(n_tasks)])
    return _numbers(target, (n_tasks, n, target.size), random)


def _numbers(target: Target, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Random valid numbers for labels of a kind."""
    if target.n_classes is not None:
        return torch.randint(target.n_classes, shape, generator=random).float()
    y = torch.randn(shape, generator=random)
    return torch.where(target.wrong(y), (y > 0).float(), y)


def build(make: MakeLearner, spec: TaskSpec) -> Learner:
    """A learner in evaluation mode with weights and statistics away from special values such as 0 and 1."""
    torch.manual_seed(0)
    learner = make(spec)
    with torch.no_grad():
        for parameter in learner.parameters():
            # Zero mean: a drift would grow from layer to layer until rounding hides what is checked.
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        for buffer in learner.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer), alpha=0.05)
    return learner.eval()


def outputs(learner: Learner, episodes: Episodes, support: Examples | None = None) -> Tensor:
    """Predictions `[T, M, P]`, with all classes of the spec in every label set."""
    phi = learner.adapt(support or episodes.support, episodes.descriptor, episodes.label_set(learner.spec))
    return learner.predict(phi, episodes.query.x)


def small_family(spec: TaskSpec, learner: Learner, random: torch.Generator) -> Episodes:
    """Two points and two tasks that swap their targets; see `check_it_learns_a_small_family_of_tasks`."""
    point = make_episodes(spec).support.x[0, 0]
    if point.dtype == torch.uint8:  # to a convolution noise and its negative look alike, two halves do not
        point = (torch.arange(spec.x_shape[-1]) < spec.x_shape[-1] // 2).mul(255).byte().expand(spec.x_shape)
    points = torch.stack([point, -point if point.is_floating_point() else 255 - point])
    which = torch.randint(2, (32, 8), generator=random)
    which[:, 1] = 1 - which[:, 0]  # so both points are in the support, the first four
    task = torch.randint(2, (32, 1), generator=random)
    z = _descriptors(spec, task[:, 0], reads_support(learner) and not isinstance(learner, MultiTask))
    if z is None and not reads_support(learner):
        task = torch.zeros_like(task)
    y = task.expand(-1, 8) if learner.ordered else which ^ task
    if spec.target.n_classes is None:
        y = y[..., None].expand(-1, -1, spec.target.size).float()
    support, query = Examples(x=points[which[:, :4]], y=y[:, :4]), Examples(x=points[which[:, 4:]], y=y[:, 4:])
    return Episodes(support=support, query=query, descriptor=z)


def reads_support(learner: Learner) -> bool:
    """Whether the learner reads the support, rather than only the task's descriptor."""
    return learner.reads_support and not (isinstance(learner, MultiTask) and learner.code.kind == "given")


def _descriptors(spec: TaskSpec, task: Tensor, reads: bool) -> Tensor | None:
    """Descriptors for two tasks `[T, dz]`, one-hot if tasks have names; zeros if the task is not given.

    For a learner that reads the support and not the names of tasks, none is given; others are told in training.
    """
    if not spec.descriptor_size:
        return None
    z = F.one_hot(task, len(spec.tasks)).float() if spec.tasks else (2.0 * task[:, None] - 1)
    given = 0.0 if reads else 1.0
    return F.pad(z * given, (0, spec.descriptor_size - z.shape[1]))
