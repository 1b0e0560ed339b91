"""Networks of several tasks against loops over the papers' equations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from multitask_cases import IMAGES, PARTS, SIZES, TASKS, one_hot
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from metabox.learners.base import Learner, Phi
from metabox.learners.multitask.cross_stitch import CrossStitch
from metabox.learners.multitask.experts import PLE, MMoE, dropped
from metabox.learners.multitask.hard_sharing import HardSharing
from metabox.learners.multitask.independent import Independent
from metabox.learners.multitask.multitask import MultiTask
from metabox.learners.multitask.soft_sharing import SoftSharing
from metabox.nn.conditioning import Concat
from metabox.nn.towers import PartHeads, Stack
from metabox.targets import Classes, TaskSpec
from metabox.testing import SPECS, build, make_episodes, outputs


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def layer(stack: Stack, k: int, x: Tensor) -> Tensor:
    """Layer k of a stack, for one input."""
    return stack.weight[k] @ x + (0 if stack.bias is None else stack.bias[k])


def last(learner: MultiTask, k: int, h: Tensor) -> Tensor:
    """The outputs of head k for one input."""
    if isinstance(learner.head, PartHeads):
        return learner.head.weight.split(SIZES)[k] @ h + learner.head.bias.split(SIZES)[k]
    return layer(learner.head.layers, k, h)


def assert_is_the_loop(learner: MultiTask, loop: Callable[[Tensor, int], Tensor]) -> None:
    """loop(x, k): what network k predicts for one input. The rows of the tasks are told by one-hot codes."""
    episodes = make_episodes(learner.spec)
    got = outputs(learner, episodes)
    for t in range(len(episodes)):
        for m in range(got.shape[1]):
            x = episodes.query.x[t, m]
            x = x.float() / 255 if x.dtype == torch.uint8 else x
            parts = learner.spec.target.parts
            wanted = torch.cat([loop(x, k) for k in range(len(parts))]) if parts else loop(x, int(episodes.task[t]))
            torch.testing.assert_close(got[t, m], wanted, rtol=1e-4, atol=1e-4)


def tower(learner: Independent, k: int, x: Tensor) -> Tensor:
    """Network k below its last layer, for one input."""
    h = x
    for stack in learner.towers.layers:
        if x.ndim == 3:
            h = F.conv2d(h[None], stack.weight[k], stack.bias[k], stride=2, padding=1)[0]
            h = (h - h.mean()) / (h.var(correction=0) + 1e-5).sqrt()
        else:
            h = layer(stack, k, h)
        h = h.clamp(min=0)
    return h.flatten()


@pytest.mark.parametrize("spec", [TASKS, PARTS, IMAGES])
def test_independent_networks_are_k_networks_of_which_the_code_picks_one(spec: TaskSpec) -> None:
    learner = build(Independent, spec)
    assert_is_the_loop(learner, lambda x, k: last(learner, k, tower(learner, k, x)))


@pytest.mark.parametrize("spec", [TASKS, PARTS])
def test_hard_sharing_is_one_network_with_a_head_for_each_task(spec: TaskSpec) -> None:
    learner = build(HardSharing, spec)
    assert_is_the_loop(learner, lambda x, k: last(learner, k, learner.embed.backbone(x)))


@pytest.mark.parametrize("spec", [TASKS, PARTS, IMAGES])
def test_cross_stitch_networks_follow_equation_1_after_every_layer(spec: TaskSpec) -> None:
    learner = build(CrossStitch, spec)

    def loop(x: Tensor, task: int) -> Tensor:
        h = [x, x, x]
        for stack, unit in zip(learner.towers.layers, learner.towers.stitches, strict=True):
            single = [replaced(learner, stack, k, h[k]) for k in range(3)]
            h = [sum(across(unit.alpha[i, j], single[j]) for j in range(3)) for i in range(3)]
        return last(learner, task, h[task].flatten())

    assert_is_the_loop(learner, loop)


def replaced(learner: CrossStitch, stack: Stack, k: int, h: Tensor) -> Tensor:
    """Layer k with its normalisation and ReLU."""
    one_layer = nn.Module()
    one_layer.towers = nn.Module()
    one_layer.towers.layers = [stack]
    after = tower(one_layer, k, h)
    return after.view(stack.weight.shape[1], *(-(-side // 2) for side in h.shape[1:]))


def across(alpha: Tensor, x: Tensor) -> Tensor:
    return alpha.view(-1, *[1] * (x.ndim - 1)) * x


@pytest.mark.parametrize("spec", [TASKS, PARTS])
def test_mmoe_follows_equations_6_to_8(spec: TaskSpec) -> None:
    learner = build(partial(MMoE, n_experts=5, expert_size=6, tower_size=7), spec)
    weights, biases = learner.experts.weight.chunk(5), learner.experts.bias.chunk(5)

    def loop(x: Tensor, k: int) -> Tensor:
        gate = (learner.gates.weight[k] @ x).softmax(0)  # (8)
        f = sum(gate[i] * (weights[i] @ x + biases[i]).clamp(min=0) for i in range(5))  # (7)
        return last(learner, k, layer(learner.towers, k, f).clamp(min=0))  # (6)

    assert_is_the_loop(learner, loop)


@pytest.mark.parametrize("spec", [TASKS, PARTS])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ple_extracts_level_by_level_as_in_its_paper(spec: TaskSpec, levels: int) -> None:
    own, shared, size = 2, 3, 6
    make = partial(PLE, levels=levels, task_experts=own, shared_experts=shared, expert_size=size)
    learner = build(make, spec)

    def experts(weight: Tensor, bias: Tensor, x: Tensor, n: int) -> list[Tensor]:
        return [(w @ x + b).clamp(min=0) for w, b in zip(weight.chunk(n), bias.chunk(n), strict=True)]

    def loop(x: Tensor, task: int) -> Tensor:
        g, g_shared = [x, x, x], x
        for j, level in enumerate(learner.levels):
            of_tasks = [experts(level.own.weight[k], level.own.bias[k], g[k], own) for k in range(3)]
            of_all = experts(level.shared.weight, level.shared.bias, g_shared, shared)
            if j < levels - 1:
                w = (level.shared_gate.weight @ g_shared).softmax(0)
                g_shared = w @ torch.stack([*of_tasks[0], *of_tasks[1], *of_tasks[2], *of_all])
            gates = [(level.gates.weight[k] @ g[k]).softmax(0) for k in range(3)]
            g = [gates[k] @ torch.stack([*of_tasks[k], *of_all]) for k in range(3)]  # w^k S^k
        return last(learner, task, layer(learner.towers, task, g[task]).clamp(min=0))

    assert_is_the_loop(learner, loop)


def test_soft_sharings_penalty_is_the_distance_of_every_pair_of_networks() -> None:
    learner = build(partial(SoftSharing, strength=0.3), TASKS)
    vectors = [
        torch.cat([value.flatten() for stack in learner.towers.layers for value in (stack.weight[k], stack.bias[k])])
        for k in range(3)
    ]
    pairs = sum((a - b).square().sum() for a, b in combinations(vectors, 2))
    torch.testing.assert_close(learner.penalty(), 0.3 * pairs / 3)  # sum over pairs = K * sum of squares about the mean
    with torch.no_grad():
        for stack in learner.towers.layers:
            for value in stack.parameters():
                value.copy_(value[:1].expand_as(value))
    torch.testing.assert_close(learner.penalty(), torch.tensor(0.0))


def test_a_rare_expert_is_dropped_with_the_given_probability_and_the_rest_share_its_weight() -> None:
    scores = torch.randn(20000, 4)
    gates = dropped(scores, 0.1).softmax(-1)
    assert (gates == 0).float().mean() == pytest.approx(0.1, abs=0.005)
    whole = scores.softmax(-1) * (gates > 0)
    torch.testing.assert_close(gates, whole / whole.sum(-1, keepdim=True))
    assert torch.equal(dropped(scores[:100], 0.9999), scores[:100])  # who would lose all keeps all


def test_experts_are_dropped_in_training_only() -> None:
    learner, episodes = build(partial(MMoE, expert_dropout=0.5), TASKS), make_episodes(TASKS)
    assert torch.equal(outputs(learner, episodes), outputs(learner, episodes))
    learner.train()
    assert not torch.equal(outputs(learner, episodes), outputs(learner, episodes))
    assert outputs(learner, episodes).isfinite().all()


@pytest.mark.parametrize("spec", [TASKS, PARTS])
def test_gate_usage_is_the_mean_of_each_tasks_gate_over_its_queries(spec: TaskSpec) -> None:
    learner, episodes = build(partial(MMoE, n_experts=4), spec), make_episodes(spec, n_tasks=5)
    mask = torch.rand(5, 4) < 0.7
    episodes = replace(episodes, query=replace(episodes.query, mask=mask))
    usage = learner.gate_usage(episodes)
    for k in range(3):
        rows = [
            (learner.gates.weight[k] @ episodes.query.x[t, m]).softmax(0)
            for t in range(5)
            for m in range(4)
            if mask[t, m] and (spec.target.parts or t % 3 == k)
        ]
        torch.testing.assert_close(usage[k], torch.stack(rows).mean(0))
    if spec.tasks:
        assert learner.gate_usage(episodes[:2])[2].isnan().all()
    said = learner.describe(episodes[:2] if spec.tasks else episodes)["gate_usage"]
    assert list(said) == (
        list(spec.tasks[:2]) or [part.name for part in spec.target.parts]
    )  # none of a task without rows
    assert all(sum(gate) == pytest.approx(1, abs=1e-3) for gate in said.values())


def test_a_row_costs_one_network_whatever_the_number_of_tasks() -> None:
    def flops(make: Callable[..., Learner], k: int) -> int:
        spec = TaskSpec((1, 28, 28), Classes(5), descriptor_size=k, tasks=tuple(map(str, range(k))), index_size=k)
        learner, x = make(spec).eval(), torch.rand(4, 50, 1, 28, 28)
        phi: Phi = learner.adapt(make_episodes(spec, n_tasks=4, n_support=0).support, one_hot([0, 1, 1, 0], k))
        with FlopCounterMode(display=False) as counter:
            learner.predict(phi, x)
        return counter.get_total_flops()

    for make in (HardSharing, Independent, SoftSharing, MMoE, partial(PLE, levels=1)):
        assert flops(make, 50) < 1.2 * flops(make, 2)
    assert flops(CrossStitch, 10) > 4 * flops(CrossStitch, 2)  # the method has it so


@pytest.mark.parametrize(
    ("make", "spec", "message"),
    [
        (partial(Independent, code="both"), SPECS["reals"], "expected at least 2 named tasks to infer one of them"),
        (partial(Independent, code="both"), PARTS, "expected at least 2 named tasks to infer one of them"),
        (Independent, replace(TASKS, descriptor_size=0, index_size=0), "expected a descriptor for named tasks"),
        (partial(HardSharing, condition=Concat), PARTS, "expected heads for targets with parts"),
    ],
)
def test_a_network_that_cannot_be_is_refused(make: Callable[..., Learner], spec: TaskSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(spec)
