"""Calls that a type checker accepts or rejects: read by mypy, never run. An ignore without need is an error."""

from __future__ import annotations

import metabox
from metabox.learners import CNP, InContext
from metabox.learners import Nothing as NoLearner  # type: ignore[attr-defined]
from metabox.learners.multitask import HardSharing
from metabox.multitask import Uncertainty
from metabox.targets import Bars, Classes, TaskSpec
from metabox.targets import Nothing as NoTarget  # type: ignore[attr-defined]
from metabox.tasks import RBF, CelebA, GaussianProcess, Omniglot
from metabox.tasks.images import Omniglot as SameOmniglot
from metabox.tasks.wrappers import Prefetch


def right_calls(spec: TaskSpec) -> metabox.Learner:
    tasks = Prefetch(Omniglot(n_way=5, n_shot=1, n_query=5, split="lake"))
    same: type[Omniglot] = SameOmniglot
    functions: metabox.EpisodeSampler = GaussianProcess(RBF(), n_support=8, n_query=8)
    learner: metabox.Learner = InContext(spec, width=64)
    HardSharing(spec, film=True)
    metabox.run(functions, CNP, metabox.OuterLoop(steps=10), target=Bars(2), weighting=Uncertainty, out="runs/gp")
    scores: metabox.Scores = metabox.evaluate(learner, tasks, n_tasks=10)
    return metabox.run(same(), lambda spec: InContext(spec, depth=3), seed=len(scores.per_task), out="runs/one")


def wrong_calls(spec: TaskSpec, tasks: Omniglot) -> None:
    InContext(1)  # type: ignore[arg-type]
    InContext(spec, widht=7)  # type: ignore[call-arg]
    InContext(1, 2, widht=7)  # type: ignore[call-arg,arg-type]
    HardSharing(spec, flim=True)  # type: ignore[call-arg]
    metabox.run(1)  # type: ignore[call-arg,arg-type]
    metabox.run(tasks, CNP, out="runs/one", sede=1)  # type: ignore[call-arg]
    metabox.nothing  # type: ignore[attr-defined]  # noqa: B018
    Omniglot(split="alphabets")  # type: ignore[arg-type]
    Omniglot(rotations=[90])  # type: ignore[arg-type]
    Omniglot(n_wya=5)  # type: ignore[call-arg]
    Omniglot(n_way="five")  # type: ignore[arg-type]
    CelebA(n_shot=1)  # type: ignore[call-arg]
    Classes("five")  # type: ignore[arg-type]
    NoLearner, NoTarget  # noqa: B018
