"""Described regressions, whose best zero-shot predictor is known, and the networks that are told their descriptions."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metabox import OuterLoop, evaluate, run
from metabox.learners import PLE, CrossStitch, HardSharing, HyperNetwork, Independent, MMoE, SoftSharing
from metabox.nn.backbones import MLP
from metabox.nn.conditioning import Add, Concat, FiLM, Gate
from metabox.tasks.descriptors import Descriptor, Metadata, OneHot, Specification, Text
from metabox.tasks.multitask.regressions import TRAITS, DescribedRegressions
from metabox.tasks.place import Place
from metabox.testing import outputs

HELD_OUT = ("task-3", "task-7")
SMALL = partial(HardSharing, backbone=partial(MLP, width=16))
FAMILY: dict[str, Any] = {
    "heads": SMALL,
    "concat at the input": partial(SMALL, condition=Concat, at="input"),
    "add at all": partial(SMALL, condition=Add, at="all"),
    "gate": partial(SMALL, condition=Gate),
    "film": partial(SMALL, condition=FiLM, at=1),
    "independent": Independent,
    "soft sharing": SoftSharing,
    "cross-stitch": CrossStitch,
    "mmoe": MMoE,
    "ple": PLE,
    "hypernetwork": HyperNetwork,
}


def test_the_weights_are_one_linear_map_of_the_signs_and_no_two_tasks_have_the_same() -> None:
    tasks = DescribedRegressions(n_tasks=40)
    assert len({tuple(signs) for signs in tasks.signs}) == 40
    assert set(np.unique(tasks.signs)) == {-1, 0, 1}
    assert (tasks.signs != 0).any(1).all()
    _, rest, rank, _ = np.linalg.lstsq(tasks.signs[:20], tasks.weights[:20], rcond=None)
    assert (rank, rest) == (len(TRAITS), pytest.approx(0, abs=1e-20))
    map_of, *_ = np.linalg.lstsq(tasks.signs[:20], tasks.weights[:20], rcond=None)
    np.testing.assert_allclose(tasks.signs[20:] @ map_of, tasks.weights[20:], atol=1e-12)  # zero-shot, on paper
    assert len(DescribedRegressions(n_tasks=728).signs) == len(
        np.unique(DescribedRegressions(n_tasks=728).signs, axis=0)
    )


def test_the_oracle_is_the_log_likelihood_of_the_best_predictor() -> None:
    tasks = DescribedRegressions(n_tasks=10, n_query=9, noise=0.3)
    episodes = tasks.sample(Place(20, "test"))
    x, y = episodes.query.x.double().numpy(), episodes.query.y.double().numpy()[..., 0]
    mean = np.einsum("tmd,td->tm", x, tasks.weights[episodes.task])
    log_p = -0.5 * ((y - mean) / 0.3) ** 2 - math.log(0.3) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(episodes.oracle.double(), torch.from_numpy(log_p.mean(1)), rtol=1e-5, atol=1e-5)
    assert np.mean((y - mean) ** 2) == pytest.approx(0.09, rel=0.3)


@pytest.mark.parametrize(
    ("descriptor", "size"), [(Metadata(standardise=False), 6), (Specification(), 18), (Text(), 256)]
)
def test_every_way_to_tell_a_task_determines_its_weights(descriptor: Descriptor, size: int) -> None:
    """The best linear map from descriptors of 200 tasks gives the weights of 20 others."""
    tasks = DescribedRegressions(n_tasks=220, n_train=1, n_eval=1, descriptor=descriptor)
    told = tasks.load().descriptors.double().numpy()
    assert told.shape == (220, size)
    map_of, *_ = np.linalg.lstsq(told[:200], tasks.weights[:200], rcond=1e-6)
    missed = np.square(told[200:] @ map_of - tasks.weights[200:]).sum(1).mean()
    assert missed < (0.01 if size == 256 else 1e-12)  # n-grams are counted up to the length of the text


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("descriptor", [Specification(), Text()], ids=["specification", "text"])
def test_every_learner_of_the_family_is_told_a_task_that_was_never_trained(name: str, descriptor: Descriptor) -> None:
    tasks = DescribedRegressions(n_tasks=10, descriptor=descriptor, untrained=HELD_OUT, n_query=4)
    torch.manual_seed(0)
    learner = FAMILY[name](tasks.spec).eval()
    if hasattr(learner, "code"):
        learner.fit(tasks)
    test = tasks.sample(Place(2, "test"))
    assert {tasks.spec.tasks[i] for i in test.task.tolist()} == set(HELD_OUT)
    told = outputs(learner, test)
    assert told.isfinite().all()
    other = outputs(learner, replace(test, descriptor=test.descriptor.flip(0)))
    assert not torch.allclose(told, other)


def test_an_index_alone_does_not_tell_a_task_that_was_never_trained() -> None:
    tasks = DescribedRegressions(n_tasks=10, descriptor=OneHot(), untrained=HELD_OUT)
    with pytest.raises(ValueError, match="training rows of every task that is told by its index, got none of task-3"):
        tasks.sample(Place(2))


def test_heads_that_are_told_in_words_come_near_to_the_best_zero_shot_predictor(tmp_path: Path) -> None:
    """Told nothing, the best predictor has the variance 1.09 instead of .09, a gap of 1.25 nats."""
    held_out = tuple(f"task-{k}" for k in range(64, 80))
    tasks = DescribedRegressions(n_query=32, untrained=held_out, descriptor=Text())
    outer = OuterLoop(
        steps=400, n_tasks=16, lr=2e-2, weight_decay=1.0, validate_every=400, n_validation=64, precision="32"
    )
    learner = run(tasks, partial(HardSharing, backbone=partial(MLP, width=32)), outer, out=tmp_path)
    scores = evaluate(learner, tasks, n_tasks=16)
    assert set(scores.tasks) == set(held_out)
    assert 0 < scores.mean("gap_to_oracle") < 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_tasks": 729}, "expected n_tasks as"),
        ({"n_tasks": 1}, "expected n_tasks as"),
        ({"noise": 0.0}, "expected noise as"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DescribedRegressions(**options)
