"""Whether a learner reads the labels of the support, or knows the classes by heart."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from torch import Tensor

from metabox.checks import checked
from metabox.episodes import Episodes, Split
from metabox.evaluation import evaluate
from metabox.learners.base import Learner
from metabox.ranges import Count, Whole
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.base import Wrapper


class _Renamed(Wrapper):
    """The tasks of another sampler with each class's label given to the next class of the task.

    Args:
        tasks: any sampler of classes.
        queries: whether the labels of the queries change too.
    """

    def __init__(self, tasks: EpisodeSampler, queries: bool) -> None:
        super().__init__(tasks)
        self.queries = queries

    def change(self, episodes: Episodes, place: Place) -> Episodes:
        episodes = episodes.blanked()
        s, q = episodes.support, episodes.query
        ways = cast(Tensor, episodes.label_set(self.spec)).sum(1, keepdim=True)
        renamed = replace(episodes, support=replace(s, y=(s.y + 1) % ways))
        return replace(renamed, query=replace(q, y=(q.y + 1) % ways)) if self.queries else renamed


@checked
def memorisation(
    learner: Learner, tasks: EpisodeSampler, *, split: Split = "test", n_tasks: Count = 100, seed: Whole = 0
) -> dict[str, float]:
    """Test whether the learner reads the labels of the support or has memorised the classes (Yin et al. 2020).

    Each class's label is given to another class in the support. `accuracy_renamed` is the share of predictions
    that follow, and should equal the ordinary accuracy; `accuracy_old_names` is the share that keep the old
    labels, and should be no more than confusions explain.

    Raises:
        ValueError: if the targets are not classes, or as for `evaluate`.
    """
    if tasks.spec.target.n_classes is None:
        raise ValueError(f"expected tasks of classes, got {tasks.spec.target!r}; only names can be exchanged")
    followed, stayed = (
        evaluate(learner, _Renamed(tasks, queries), split=split, n_tasks=n_tasks, seed=seed).mean("accuracy")
        for queries in (True, False)
    )
    return {"accuracy_renamed": followed, "accuracy_old_names": stayed, "n_tasks": n_tasks}
