"""Helpers for the tests of learners: specs, ragged episodes, and a task's examples one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from metabox.episodes import Episodes, Examples
from metabox.learners.base import Learner
from metabox.targets import Classes, Reals, TaskSpec
from metabox.testing import make_episodes

CLASSES = TaskSpec((4,), Classes(3))
REALS = TaskSpec((2,), Reals(2))
DESCRIBED = TaskSpec((4,), Classes(3), descriptor_size=2)
DESCRIBED_REALS = TaskSpec((2,), Reals(1), descriptor_size=3)
KINDS = [CLASSES, REALS, DESCRIBED, DESCRIBED_REALS]


def ragged(spec: TaskSpec) -> Episodes:
    """Episodes whose supports have 6, 4 and 0 real examples, with padding in between."""
    episodes = make_episodes(spec)
    mask = torch.tensor([[True] * 6, [True, False, True, True, False, True], [False] * 6])
    return replace(episodes, support=replace(episodes.support, mask=mask))


def real_examples(examples: Examples, t: int) -> list[tuple[Tensor, Tensor]]:
    return [(x, y) for x, y, m in zip(examples.x[t], examples.y[t], examples.mask[t], strict=True) if m]


def mean(parts: list[Tensor], width: int) -> Tensor:
    return sum(parts, torch.zeros(width)) / max(1, len(parts))


def embedding(learner: Learner, episodes: Episodes, t: int) -> Callable[[Tensor], Tensor]:
    """A learner's first layer for one input of task t: its features, with the descriptor concatenated."""
    z = [] if episodes.descriptor is None else [episodes.descriptor[t]]
    return lambda x: torch.cat([learner.embed.backbone(x), *z])


def doubled(examples: Examples) -> Examples:
    """Examples in double precision, in which near ties of usage stay apart."""
    y = examples.y.double() if examples.y.is_floating_point() else examples.y
    return Examples(x=examples.x.double(), y=y, mask=examples.mask)


def in_double(episodes: Episodes) -> Episodes:
    z = None if episodes.descriptor is None else episodes.descriptor.double()
    return replace(episodes, support=doubled(episodes.support), query=doubled(episodes.query), descriptor=z)
