"""Which task a row is of: told, or inferred by Bayes' rule over the networks of the trained tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from multitask_cases import TASKS, one_hot
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from toys import named_rows

from metabox.episodes import Examples
from metabox.learners.multitask.experts import MMoE
from metabox.learners.multitask.hard_sharing import HardSharing
from metabox.learners.multitask.independent import Independent
from metabox.learners.multitask.multitask import MultiTask
from metabox.nn.backbones import Conv4, Flatten
from metabox.targets import Classes, Reals, TaskSpec
from metabox.tasks.named import InMemory
from metabox.testing import CHECKS, build, make_episodes, outputs
from metabox.training.preflight import check
from metabox.training.settings import OuterLoop

DESCRIBED = TaskSpec((4,), Classes(3), descriptor_size=2, tasks=("a", "b", "c", "new"), untrained=("new",))
BOTH = replace(DESCRIBED, descriptor_size=5, index_size=3)
PRIOR = (0.2, 0.3, 0.5)
P = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]])  # of the labels 0 and 1 by task


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def coins(**kwargs: object) -> HardSharing:
    """Heads set by hand: task k has label 1 with the probability P[k, 1], whatever x."""
    spec = TaskSpec((1,), Classes(2), descriptor_size=3, tasks=("a", "b", "c"), index_size=3)
    learner = HardSharing(spec, backbone=Flatten, code="both", prior=PRIOR, **kwargs).eval()
    with torch.no_grad():
        learner.head.layers.weight.zero_()
        learner.head.layers.bias.copy_(P.log())
    return learner


def shown(labels: list[int]) -> Examples:
    return Examples(x=torch.zeros(1, len(labels), 1), y=torch.tensor([labels], dtype=torch.int64))


@pytest.mark.parametrize(
    ("labels", "told", "error", "posterior"),
    [
        ([1, 1, 0], None, 0.01, [0.0256, 0.0375, 0.0045]),  # .2 .8 .8 .2, .3 .5 .5 .5, .5 .1 .1 .9
        ([1, 1, 0], 0, 0.01, [0.0256 * 0.99, 0.0375 * 0.005, 0.0045 * 0.005]),
        ([1, 1, 0], 2, 0.2, [0.0256 * 0.1, 0.0375 * 0.1, 0.0045 * 0.8]),
        ([1, 1, 0], 2, 0.0, [0.0, 0.0, 1.0]),
        ([], None, 0.01, PRIOR),
    ],
)
def test_a_task_that_is_not_told_is_inferred_by_bayes_rule_and_predictions_are_mixed(
    labels: list[int], told: int | None, error: float, posterior: list[float]
) -> None:
    learner, wanted = coins(error=error), torch.tensor(posterior)
    z = torch.zeros(1, 3) if told is None else one_hot([told])
    phi = learner.adapt(shown(labels), z, torch.ones(1, 2, dtype=torch.bool))
    p = learner.predict(phi, torch.zeros(1, 1, 1)).softmax(-1)[0, 0]
    torch.testing.assert_close(p, (wanted / wanted.sum()) @ P, rtol=1e-4, atol=1e-6)


def test_networks_are_compared_under_the_tasks_own_label_set() -> None:
    """Task 0 gives most probability to a class that is not in the label set, which is no evidence against it."""
    spec = TaskSpec((1,), Classes(3), descriptor_size=2, tasks=("a", "b"), index_size=2)
    learner = HardSharing(spec, backbone=Flatten, code="both").eval()
    with torch.no_grad():
        learner.head.layers.weight.zero_()
        learner.head.layers.bias.copy_(torch.tensor([[0.08, 0.02, 0.9], [0.5, 0.5, 1e-9]]).log())
    classes = torch.tensor([[True, True, False]])
    phi = learner.adapt(shown([0]), torch.zeros(1, 2), classes)
    torch.testing.assert_close(phi["weights"], torch.tensor([[0.8 / 1.3, 0.5 / 1.3]]))
    p = learner.predict(phi, torch.zeros(1, 1, 1)).softmax(-1)[0, 0]
    torch.testing.assert_close(p, torch.tensor([(0.8 * 0.8 + 0.5 * 0.5) / 1.3, (0.8 * 0.2 + 0.5 * 0.5) / 1.3, 0.0]))


def test_for_reals_the_prediction_has_the_mixtures_mean_and_variance() -> None:
    spec = TaskSpec((1,), Reals(1, min_scale=0.0, link="exp"), descriptor_size=2, tasks=("a", "b"), index_size=2)
    learner = Independent(spec, code="both", prior=(1.0, 3.0), depth=1).eval()
    with torch.no_grad():
        learner.head.layers.weight.zero_()
        learner.head.layers.bias.copy_(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))  # N(0, 1) and N(2, 1)
    nothing = Examples(x=torch.zeros(1, 0, 1), y=torch.zeros(1, 0, 1))
    mean, std = spec.target.mean_and_scale(
        learner.predict(learner.adapt(nothing, torch.zeros(1, 2)), torch.zeros(1, 1, 1))
    )
    mean, std = mean.detach(), std.detach()
    assert float(mean) == pytest.approx(1.5)
    assert float(std) ** 2 == pytest.approx(1 + 0.25 * 1.5**2 + 0.75 * 0.5**2, rel=1e-4)


@pytest.mark.parametrize("make", [HardSharing, Independent, partial(MMoE, expert_size=32, tower_size=32)])
@pytest.mark.parametrize("check", CHECKS)
def test_a_network_conforms_when_its_task_is_told_or_inferred(make: Callable[..., MultiTask], check: str) -> None:
    CHECKS[check](partial(make, code="both"), TASKS)


@pytest.mark.parametrize("make", [HardSharing, Independent, MMoE])
@pytest.mark.parametrize("spec", [DESCRIBED, BOTH], ids=["described", "described and named"])
@pytest.mark.parametrize("kind", ["given", "both"])
def test_a_task_that_was_never_trained_is_reached_by_its_description(
    make: Callable[..., MultiTask], spec: TaskSpec, kind: str
) -> None:
    learner, described = build(partial(make, code=kind), spec), make_episodes(spec)
    z = torch.randn(3, spec.descriptor_size)
    z[:, : spec.index_size] = 0  # none of the trained tasks
    assert learner.copies == 3
    code = learner.adapt(described.support, z)["code"]
    map = learner.code.map
    index = torch.zeros(3, 3) if spec.index_size else map.bias
    wanted = index + ((z[:, spec.index_size :] - learner.code.location) / learner.code.scale) @ map.weight.T
    torch.testing.assert_close(code, wanted)  # no softmax, no inference: it is told
    assert outputs(learner, replace(described, descriptor=z)).isfinite().all()


def test_inference_compares_the_descriptions_of_the_trained_tasks() -> None:
    """Heads reached by text alone: network k is the one that task k's description leads to."""
    rows = named_rows()
    told = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    rows = replace(rows, descriptors=told, spec=replace(rows.spec, descriptor_size=2, index_size=0))
    learner = build(partial(HardSharing, code="both"), rows.spec)
    learner.fit(InMemory(rows))
    torch.testing.assert_close(learner.code.rest, told)
    support = Examples(x=torch.randn(1, 5, 1), y=torch.tensor([[0, 1, 2, 0, 1]]))
    phi = learner.adapt(support, torch.zeros(1, 2))
    log_p = torch.stack(
        [
            learner.spec.target.log_prob(
                learner.outputs(learner.embed(support.x, phi), learner.code(told[k : k + 1], 1, told)), support.y
            ).sum()
            for k in range(3)
        ]
    )
    torch.testing.assert_close(phi["weights"][0], log_p.softmax(0))
    named = learner.adapt(support, told[1:2])["weights"][0]
    trust = torch.tensor([0.005, 0.99, 0.005]).log()
    torch.testing.assert_close(named, (log_p + trust).softmax(0))


def test_frequencies_and_descriptions_of_the_trained_tasks_come_from_the_sampler() -> None:
    sampler = InMemory(named_rows(), temperature=1.0)
    learner = HardSharing(sampler.spec, code="both")
    learner.fit(sampler)
    torch.testing.assert_close(learner.code.frequency, torch.tensor([4.0, 12.0, 14.0]) / 30)
    given = HardSharing(sampler.spec, code="both", prior=PRIOR)
    given.fit(sampler)
    torch.testing.assert_close(given.code.frequency, torch.tensor(PRIOR))


def test_training_tells_the_task_and_refuses_a_sampler_that_does_not(tmp_path: object) -> None:
    outer = OuterLoop(steps=2, n_tasks=4, warmup=0)
    check(InMemory(named_rows()), HardSharing, outer, evaluation=InMemory(named_rows(), untold=1.0))
    with pytest.raises(ValueError, match="expected every task told in training"):
        check(InMemory(named_rows(), untold=0.5), partial(HardSharing, code="both"), outer)
    rows = named_rows()
    zeros = replace(rows, descriptors=torch.eye(3)[:, 1:], spec=replace(rows.spec, descriptor_size=2, index_size=0))
    with pytest.raises(ValueError, match="not zeros, which mean that the task is not told, got zeros for a"):
        check(InMemory(zeros), partial(HardSharing, code="both"), outer)


def test_a_task_that_is_told_costs_one_network_if_it_is_believed() -> None:
    def flops(error: float, z: Tensor) -> int:
        learner = build(partial(Independent, code="both", error=error), TASKS)
        episodes = make_episodes(TASKS)
        with FlopCounterMode(display=False) as counter:
            learner.predict(learner.adapt(episodes.support, z), episodes.query.x)
        return counter.get_total_flops()

    told = one_hot([0, 1, 2])
    assert flops(0.0, told) * 3 < flops(0.01, told)
    assert flops(0.01, told) == flops(0.01, torch.zeros(3, 3))


def test_a_code_that_enters_the_backbone_is_inferred_by_k_backbones() -> None:
    spec = TaskSpec((1, 16, 16), Classes(3), descriptor_size=3, tasks=("a", "b", "c"), index_size=3)
    make = partial(HardSharing, backbone=partial(Conv4, width=8, norm="support"), film=True)
    both, episodes = build(partial(make, code="both"), spec), make_episodes(spec)
    phi = both.adapt(episodes.support, torch.zeros(3, 3))
    given = build(make, spec)
    given.load_state_dict(both.state_dict())
    one = [outputs(given, replace(episodes, descriptor=one_hot([k] * 3))) for k in range(3)]
    wanted = both.spec.target.mixture(torch.stack(one, dim=1), phi["weights"])
    torch.testing.assert_close(both.predict(phi, episodes.query.x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", [[0.5, 0.5, 0.0], [1.0, 1.0, 0.0], [2.0, 0.0, 0.0]])
def test_an_index_is_one_hot_or_zeros(wrong: list[float]) -> None:
    learner, episodes = build(HardSharing, TASKS), make_episodes(TASKS)
    with pytest.raises(ValueError, match="the index of a trained task, one-hot"):
        learner.adapt(episodes.support, torch.tensor([wrong] * 3))


def test_an_index_says_nothing_about_a_task_without_training_rows() -> None:
    rows = named_rows()
    split = np.where(np.asarray(rows.task) == 1, "test", rows.split)
    with pytest.raises(
        ValueError, match="expected training rows of every task that is told by its index, got none of b"
    ):
        replace(rows, split=split)
    text = torch.cat([torch.eye(3), torch.tensor([[1.0], [2.0], [3.0]])], dim=1)
    described = replace(rows, split=split, descriptors=text, spec=replace(rows.spec, descriptor_size=4))
    assert described.spec.trained == ("a", "c")
    assert described.told(np.arange(3)).tolist() == [[1, 0, 1], [0, 0, 2], [0, 1, 3]]
    again = replace(described, split=rows.split)  # all are trained, and the index is counted anew
    assert again.told(np.array([2, 0])).tolist() == [[0, 0, 1, 3], [1, 0, 0, 1]]
    assert replace(rows, descriptors=None).told(np.array([1])).tolist() == [[0, 1, 0]]
    with pytest.raises(ValueError, match="one-hot in their order"):
        replace(rows, descriptors=torch.eye(3).flip(0))


def test_a_descriptor_that_is_no_index_is_not_taken_for_one() -> None:
    """Thirty tasks told by 256 numbers, or three by seven, have codes that are linear in them."""
    for k, size in ((30, 256), (7, 3)):
        spec = TaskSpec((2,), Classes(2), descriptor_size=size, tasks=tuple(map(str, range(k))))
        learner = HardSharing(spec).eval()
        z, support = torch.randn(3, size), Examples(x=torch.zeros(3, 0, 2), y=torch.zeros(3, 0, dtype=torch.int64))
        codes = [learner.adapt(support, part)["code"] for part in (z, -z, torch.zeros_like(z))]
        assert codes[0].shape == (3, k)
        torch.testing.assert_close((codes[0] + codes[1]) / 2, codes[2])
        assert not torch.allclose(codes[0], z[:, :k] if size > k else codes[2], atol=0.01)
        phi = learner.adapt(support, torch.zeros_like(z))
        assert (learner.predict(phi, torch.randn(3, 4, 2)) != 0).any()
