"""Layers of several tasks, and what of a network the tasks share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from multitask_cases import PARTS, SIZES, TASKS, one_hot
from torch import Tensor, nn

from metabox.learners.base import Learner
from metabox.learners.multitask.cross_stitch import CrossStitch
from metabox.learners.multitask.experts import PLE, MMoE
from metabox.learners.multitask.hard_sharing import HardSharing
from metabox.learners.multitask.independent import Independent
from metabox.learners.multitask.multitask import MultiTask
from metabox.learners.multitask.soft_sharing import SoftSharing
from metabox.nn.towers import PartHeads, Split, Stack, Stitch, shared_parameters, task_parameters
from metabox.targets import TaskSpec
from metabox.testing import build, make_episodes, outputs

NETWORKS = [HardSharing, Independent, SoftSharing, CrossStitch, MMoE, PLE]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_a_stack_with_a_one_hot_code_is_the_layer_that_the_code_names() -> None:
    linear, conv = Stack(3, 4, 5), Stack(3, 2, 5, kernel=3, stride=2)
    x, images, task = torch.randn(4, 6, 4), torch.randn(4, 6, 2, 8, 9), [2, 0, 2, 1]
    for t, k in enumerate(task):
        torch.testing.assert_close(linear(x, one_hot(task))[t], F.linear(x[t], linear.weight[k], linear.bias[k]))
        wanted = F.conv2d(images[t], conv.weight[k], conv.bias[k], stride=2, padding=1)
        torch.testing.assert_close(conv(images, one_hot(task))[t], wanted, rtol=1e-4, atol=1e-5)


def test_a_stack_with_a_soft_code_gives_the_mixture_of_its_layers_outputs() -> None:
    stack, x, code = Stack(3, 4, 5), torch.randn(4, 6, 4), torch.rand(4, 3)
    every = stack(x.flatten(0, 1).expand(3, -1, -1)).unflatten(1, (4, 6))
    torch.testing.assert_close(stack(x, code), torch.einsum("tk,ktmd->tmd", code, every))


def test_a_stack_begins_as_torchs_layers_do() -> None:
    for ours, theirs in ((Stack(50, 40, 30), nn.Linear(40, 30)), (Stack(50, 20, 30, kernel=3), nn.Conv2d(20, 30, 3))):
        assert float(ours.weight.detach().abs().max()) == pytest.approx(float(theirs.weight.detach().abs().max()), 0.02)


def test_heads_of_parts_are_linear_layers_of_unequal_sizes() -> None:
    heads, h = PartHeads(5, SIZES), torch.randn(3, 7, 5)
    weights, biases = heads.weight.split(SIZES), heads.bias.split(SIZES)
    wanted = [F.linear(h[k], weights[k], biases[k]) for k in range(3)]
    torch.testing.assert_close(heads(h), torch.cat(wanted, dim=-1))


def test_the_cross_stitch_unit_is_equation_1_in_every_channel() -> None:
    unit, x = Stitch(2, 3), torch.randn(2, 4, 3, 5, 5)
    torch.testing.assert_close(unit(x)[0], 0.9 * x[0] + 0.1 * x[1])
    torch.testing.assert_close(unit(x)[1], 0.1 * x[0] + 0.9 * x[1])
    with torch.no_grad():
        unit.alpha.normal_()
    for c in range(3):
        for i in range(2):
            wanted = unit.alpha[i, 0, c] * x[0, :, c] + unit.alpha[i, 1, c] * x[1, :, c]
            torch.testing.assert_close(unit(x)[i, :, c], wanted)
    torch.testing.assert_close(Stitch(5, 3).alpha.sum(1), torch.ones(5, 3))
    assert Stitch(1, 3).alpha.tolist() == [[[1.0, 1.0, 1.0]]]


@pytest.mark.parametrize("spec", [TASKS, PARTS])
@pytest.mark.parametrize("make", [*NETWORKS, partial(PLE, levels=1), partial(PLE, levels=3)])
def test_the_loss_of_a_task_reaches_its_own_and_the_shared_parameters_and_no_others(
    make: Callable[..., MultiTask], spec: TaskSpec
) -> None:
    learner, episodes = build(make, spec), make_episodes(spec, n_query=50)
    params = outputs(learner, episodes)
    losses = [part.square().sum() for part in (params.split(SIZES, dim=-1) if spec.target.parts else params)]
    shared = shared_parameters(learner)
    theirs = [{name: view.shape for name, view in task_parameters(learner, i).items()} for i in range(3)]
    assert all(set(own) | set(shared) == {name for name, _ in learner.named_parameters()} for own in theirs)
    assert not set(theirs[0]) & set(shared)
    for i in range(3):
        reached = reach(learner, losses[i])
        assert all(reached[name].abs().max() > 0 for name in shared)
        for name in theirs[i]:
            rows = reached[name].split(shares(learner, name))
            assert [bool(row.any()) for row in rows] == [j == i for j in range(3)], name


def reach(learner: Learner, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*learner.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True))


def shares(learner: Learner, name: str) -> tuple[int, ...]:
    owner = learner.get_submodule(name.rpartition(".")[0])
    assert isinstance(owner, Split)
    return owner.shares


@pytest.mark.parametrize("make", NETWORKS)
def test_shared_and_own_parameters_together_are_all_parameters(make: type[MultiTask]) -> None:
    learner = make(PARTS)
    own = [value.numel() for i in range(3) for value in task_parameters(learner, i).values()]
    total = sum(value.numel() for value in learner.parameters())
    assert sum(own) + sum(value.numel() for value in shared_parameters(learner).values()) == total


def test_a_tasks_parameters_are_views_that_can_be_changed_in_place() -> None:
    learner = build(Independent, TASKS)
    episodes = make_episodes(TASKS)
    before = outputs(learner, episodes)
    with torch.no_grad():
        for value in task_parameters(learner, 1).values():
            value.zero_()
    after = outputs(learner, episodes)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert after[1].count_nonzero() == 0
    with pytest.raises(IndexError):
        task_parameters(learner, 3)
