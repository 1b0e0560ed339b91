"""A loss for each named task: each row by the kind of its task, in training and evaluation."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import metabox
from metabox import Bars, Huber, Laplace, PerTask, Reals
from metabox.learners import HardSharing
from metabox.multitask import Uncertainty
from metabox.nn.backbones import MLP
from metabox.targets import TaskSpec
from metabox.tasks.named import InMemory
from metabox.tasks.rows import Rows

KINDS = (Laplace(1), Reals(1, noise=1), Laplace(1))
TARGET = PerTask(("a", "b", "c"), KINDS)


def test_each_row_has_the_loss_the_likelihood_and_the_scores_of_its_task() -> None:
    params, y, task = torch.randn(4, 5, 1), torch.randn(4, 5, 1), torch.tensor([1, 0, 2, 1])
    bound = TARGET.for_tasks(task, ("a", "b", "c"))
    for name in ("loss", "error", "log_prob"):
        wanted = torch.cat([getattr(KINDS[k], name)(params[i : i + 1], y[i : i + 1]) for i, k in enumerate(task)])
        torch.testing.assert_close(getattr(bound, name)(params, y), wanted)
    scores = bound.scores(params, y)
    assert scores["absolute_error"].isnan().any(1).tolist() == [True, False, False, True]
    assert scores["squared_error"].isnan().any(1).tolist() == [False, True, True, False]
    other_order = TARGET.for_tasks(task, ("b", "a", "c"))
    torch.testing.assert_close(other_order.loss(params, y)[0], KINDS[0].loss(params, y)[0])


def tasks() -> InMemory:
    """Three tasks of one skewed number: what is best for L1 is the median, for squares the mean."""
    torch.manual_seed(0)
    task = np.arange(900) % 3
    y = torch.distributions.Exponential(1.0).sample((900, 1))
    spec = TaskSpec((2,), Reals(1), descriptor_size=3, index_size=3, tasks=("a", "b", "c"))
    split = np.array(["train", "train", "val"])[np.arange(900) // 3 % 3]
    rows = Rows(x=torch.zeros(900, 2), y=y, split=split, spec=spec, task=task, descriptors=torch.eye(3))
    return InMemory(rows, n_query=32)


@pytest.mark.parametrize("weighting", [None, Uncertainty])
def test_one_network_learns_the_median_of_one_task_and_the_mean_of_another(
    tmp_path: Path, weighting: type[Uncertainty] | None
) -> None:
    outer = metabox.OuterLoop(
        steps=150, n_tasks=6, lr=3e-2, warmup=0, validate_every=150, n_validation=3, precision="32"
    )
    learner = metabox.run(
        tasks(), partial(HardSharing, backbone=partial(MLP, width=8)), outer, target=TARGET, weighting=weighting,
        out=tmp_path,
    )  # fmt: skip
    empty = metabox.Examples(x=torch.zeros(3, 0, 2), y=torch.zeros(3, 0, 1))
    params = learner.predict(learner.adapt(empty, torch.eye(3)), torch.zeros(3, 1, 2)).detach()
    got = [float(kind.mean(params[k : k + 1])) for k, kind in enumerate(KINDS)]
    assert got == pytest.approx([math.log(2), 1.0, math.log(2)], abs=0.12)
    scores = metabox.evaluate(learner, tasks(), split="val", n_tasks=6)
    assert math.isnan(scores.by_task("absolute_error")["b"])
    assert math.isfinite(scores.by_task("absolute_error")["a"])
    assert math.isfinite(scores.mean("nll"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: PerTask(("a",), KINDS),
        lambda: PerTask(("a", "a"), KINDS[:2]),
        lambda: PerTask(("a", "b"), (Laplace(1), Reals(1))),
        lambda: PerTask(("a", "b"), (Laplace(1), Huber(2))),
        lambda: PerTask(("a",), (Bars(1),)),
        lambda: TARGET.of_task("z"),
        lambda: TARGET.loss(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)),
        lambda: TARGET.for_tasks(torch.zeros(1, dtype=torch.int64), ("z",)),
    ],
)
def test_what_does_not_fit_is_named(make: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()  # type: ignore[operator]
