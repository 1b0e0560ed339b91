"""Whether a learner reads the labels of the support, or knows the classes by heart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

from torch import Tensor

from metabox.checks import checked
from metabox.episodes import Episodes, Examples, Split
from metabox.evaluation import evaluate
from metabox.learners.base import Learner
from metabox.objectives import Objective, QueryLoss
from metabox.ranges import Count, Whole
from metabox.tasks.sampler import EpisodeSampler

Predictions = Callable[[Episodes], tuple[Tensor, Examples]]


def _exchanged(predictions: Predictions, ways: Callable[[Episodes], Tensor], follow: bool, episodes: Episodes) -> Any:
    """Predictions for a batch with each class's label given to the next class of its task.

    Args:
        predictions: of an objective.
        ways: the number of classes of each task, `[T, 1]`.
        follow: whether they are scored by the new labels; else by the old ones.
        episodes: the batch.
    """
    n, s, q = ways(episodes), episodes.support, episodes.query
    new = replace(episodes, support=replace(s, y=(s.y + 1) % n), query=replace(q, y=(q.y + 1) % n))
    params, examples = predictions(new)
    return params, examples if follow else replace(examples, y=(examples.y - 1) % n)


@checked
def memorisation(
    learner: Learner,
    tasks: EpisodeSampler,
    *,
    split: Split = "test",
    n_tasks: Count = 100,
    seed: Whole = 0,
    objective: Callable[[Learner], Objective] = QueryLoss,
    metric: str = "accuracy",
) -> dict[str, Any]:
    """Test whether the learner reads the labels of the support or has memorised the classes (Yin et al. 2020).

    Each class's label is given to another class, in the support and in all that is shown of a stream.
    `accuracy_renamed` is the share of predictions that follow, and should equal the ordinary accuracy;
    `accuracy_old_names` is the share that keep the old labels, and should be no more than confusions explain.

    Args:
        learner: of classes.
        tasks: any sampler of classes.
        split: which classes.
        n_tasks: how many tasks.
        seed: another seed gives another list of tasks.
        objective: which predictions are counted, as for `evaluate`.
        metric: "accuracy", or with `StreamLoss` "accuracy_instance_k", at the k-th instance of a class.

    Raises:
        ValueError: if the targets are not classes, or the evaluation has no such metric; or as for `evaluate`.
    """
    if tasks.spec.target.n_classes is None:
        raise ValueError(f"expected tasks of classes, got {tasks.spec.target!r}; only names can be exchanged")

    def ways(episodes: Episodes) -> Tensor:
        return cast(Tensor, episodes.label_set(tasks.spec)).sum(1, keepdim=True)

    def exchanging(learner: Learner, follow: bool) -> Objective:
        made = objective(learner)
        made.predictions = partial(_exchanged, made.predictions, ways, follow)  # type: ignore[method-assign]
        return made

    found = []
    for follow in (True, False):
        made = partial(exchanging, follow=follow)
        scores = evaluate(learner, tasks, split=split, n_tasks=n_tasks, seed=seed, objective=made)
        if metric not in scores.per_task:
            raise ValueError(f"expected a metric among {', '.join(scores.per_task)}, got {metric!r}")
        found.append(scores.mean(metric))
    followed, stayed = found
    return {"metric": metric, "accuracy_renamed": followed, "accuracy_old_names": stayed, "n_tasks": n_tasks}
