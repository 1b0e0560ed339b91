"""Networks of several tasks against loops over the papers' equations, and what of them the tasks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from metabox.episodes import Episodes, Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.multitask.experts import PLE, MMoE, dropped
from metabox.learners.multitask.multitask import CrossStitch, HardSharing, Independent, MultiTask, SoftSharing
from metabox.learners.multitask.task_code import TaskCode
from metabox.nn.conditioning import Concat
from metabox.nn.towers import PartHeads, Split, Stack, Stitch, shared_parameters, task_parameters
from metabox.targets import Classes, TaskSpec
from metabox.testing import CHECKS, SPECS, build, make_episodes, outputs

NETWORKS = [HardSharing, Independent, SoftSharing, CrossStitch, MMoE, PLE]
TASKS = SPECS["named tasks"]
PARTS = SPECS["named parts"]
IMAGES = TaskSpec((1, 16, 16), Classes(3), descriptor_size=3, tasks=("a", "b", "c"))
SIZES = (3, 4, 2)  # natural parameters of the named parts: 3 classes, 2 reals, 2 binary labels


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def one_hot(tasks: list[int], k: int = 3) -> Tensor:
    return F.one_hot(torch.tensor(tasks), k).float()


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


# --- the parts ---


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


# --- the networks ---


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
        spec = TaskSpec((1, 28, 28), Classes(5), descriptor_size=k, tasks=tuple(map(str, range(k))))
        learner, x = make(spec).eval(), torch.rand(4, 50, 1, 28, 28)
        phi: Phi = learner.adapt(make_episodes(spec, n_tasks=4, n_support=0).support, one_hot([0, 1, 1, 0], k))
        with FlopCounterMode(display=False) as counter:
            learner.predict(phi, x)
        return counter.get_total_flops()

    for make in (HardSharing, Independent, SoftSharing, MMoE, partial(PLE, levels=1)):
        assert flops(make, 50) < 1.2 * flops(make, 2)
    assert flops(CrossStitch, 10) > 4 * flops(CrossStitch, 2)  # the method has it so


# --- what is shared ---


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


# --- the task's code ---


def test_the_code_is_bayes_rule_over_the_known_tasks() -> None:
    learner = build(partial(Independent, code="both"), TASKS)
    with torch.no_grad():
        learner.code.evidence[-1].weight.mul_(100)
    code, episodes = learner.code, make_episodes(TASKS)
    support, z = episodes.support, episodes.descriptor * torch.tensor([[1.0], [0.0], [1.0]])  # the second is not told
    support = replace(support, mask=torch.rand(3, 6) < 0.6)
    got = code(support, z)
    for t in range(3):
        score = code.prior + code.trust * z[t]
        for n in range(6):
            if support.mask[t, n]:
                label = F.one_hot(support.y[t, n], 3).float()
                score = score + code.evidence(torch.cat([code.backbone(support.x[t, n]), label])) / code.width
        torch.testing.assert_close(got[t], score.exp() / score.exp().sum())


def test_a_given_code_is_the_descriptors_first_columns_and_the_rest_joins_the_features() -> None:
    spec = replace(TASKS, descriptor_size=5)
    learner, episodes = build(Independent, spec), make_episodes(spec)
    phi = learner.adapt(episodes.support, episodes.descriptor)
    assert torch.equal(phi["code"], episodes.descriptor[:, :3])
    assert torch.equal(phi["descriptor"], episodes.descriptor[:, 3:])
    assert learner.towers.layers[0].weight.shape[-1] == 4 + 2
    with_rest = build(Independent, replace(IMAGES, descriptor_size=5))
    assert with_rest.towers.layers[0].weight.shape[2:] == (1 + 2, 3, 3)  # constant channels
    images = make_episodes(with_rest.spec)
    changed = replace(images, descriptor=images.descriptor + torch.tensor([0.0, 0, 0, 1, 0]))
    assert not torch.allclose(outputs(with_rest, changed), outputs(with_rest, images), atol=1e-3)


def test_without_support_and_untold_the_code_is_the_prior() -> None:
    for kind in ("inferred", "both"):
        learner = build(partial(MMoE, code=kind), TASKS)
        nothing = make_episodes(TASKS, n_support=0).support
        code = learner.adapt(nothing, torch.zeros(3, 3))["code"]
        torch.testing.assert_close(code, learner.code.prior.softmax(0).expand(3, -1))


def test_what_is_told_is_believed_at_first() -> None:
    code, nothing = TaskCode(TASKS, "both"), make_episodes(TASKS, n_support=0).support
    assert code(nothing, one_hot([1, 0, 2])).amax(1).tolist() == pytest.approx([0.9677] * 3, abs=1e-3)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("make", [HardSharing, Independent, partial(MMoE, expert_size=32, tower_size=32)])
def test_a_network_conforms_when_its_code_is_told_and_inferred_in_one(
    make: Callable[..., MultiTask], check: str
) -> None:
    CHECKS[check](partial(make, code="both"), TASKS)


@pytest.mark.parametrize("check", [name for name in CHECKS if "descriptor" not in name])
def test_a_network_conforms_when_its_code_is_inferred(check: str) -> None:
    CHECKS[check](partial(HardSharing, code="inferred"), TASKS)


def test_one_model_may_be_told_the_task_or_see_it() -> None:
    """Three tasks on the same points, each with its own constant label: the code is all there is to learn."""
    learner = Independent(TASKS, code="both", depth=1)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)

    def batch(told: Tensor, n_support: int) -> tuple[Episodes, Tensor]:
        task = torch.randint(3, (64,))
        y = task[:, None].expand(-1, n_support)
        support = Examples(x=torch.randn(64, n_support, 4), y=y)
        query = Examples(x=torch.randn(64, 4, 4), y=task[:, None].expand(-1, 4))
        return Episodes(support=support, query=query, descriptor=F.one_hot(task, 3) * told[:, None]), task

    for _ in range(150):
        episodes, _ = batch((torch.rand(64) < 0.5).float(), 2)
        loss = F.cross_entropy(learner(episodes).flatten(0, 1), episodes.query.y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learner.eval()
    for told, n_support in ((1.0, 0), (0.0, 2), (1.0, 2)):
        episodes, _ = batch(torch.full((64,), told), n_support)
        assert (learner(episodes).argmax(-1) == episodes.query.y).float().mean() > 0.95


# --- what is refused ---


@pytest.mark.parametrize(
    ("make", "spec", "message"),
    [
        (partial(Independent, code="inferred"), SPECS["reals"], "expected at least 2 named tasks to infer one of them"),
        (partial(Independent, code="both"), PARTS, "expected at least 2 named tasks to infer one of them"),
        (Independent, replace(TASKS, descriptor_size=2), "expected a descriptor that begins with the task, one-hot"),
        (partial(HardSharing, condition=Concat), PARTS, "expected heads for targets with parts"),
    ],
)
def test_a_network_that_cannot_be_is_refused(make: Callable[..., Learner], spec: TaskSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(spec)
