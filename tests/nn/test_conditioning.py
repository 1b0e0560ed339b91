"""How a task code meets features: what each way contains, by weights written down, and heads against a loop."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.learners.multitask.hard_sharing import HardSharing
from metabox.nn.backbones import MLP, Conv4
from metabox.nn.conditioning import Add, BackboneFiLM, Concat, Conditioner, FiLM, Gate, Heads
from metabox.targets import Classes, TaskSpec
from metabox.testing import CHECKS, SPECS, build, make_episodes, outputs

T, M, D, K, OUT = 5, 6, 4, 3, 2


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def one_hot(tasks: list[int]) -> Tensor:
    return F.one_hot(torch.tensor(tasks), K).float()


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, dtype=torch.double)


def test_before_a_linear_layer_what_concatenation_does_addition_can_do() -> None:
    h, z = torch.randn(T, M, D, dtype=torch.double), torch.randn(T, K, dtype=torch.double)
    after_concat, after_add = linear(D + K, OUT), linear(D, OUT)
    add = Add(D, K).double()
    of_h, of_z = after_concat.weight.detach().split([D, K], dim=1)
    with torch.no_grad():
        after_add.weight.copy_(of_h)
        after_add.bias.copy_(after_concat.bias)
        add.shift.weight.copy_(torch.linalg.pinv(of_h) @ of_z)  # W_h S = W_z has a solution, since OUT <= D
        add.shift.bias.zero_()
    torch.testing.assert_close(after_add(add(h, z)), after_concat(Concat(D, K)(h, z)))


def test_before_a_linear_layer_what_addition_does_concatenation_can_do() -> None:
    h, z = torch.randn(T, M, D, dtype=torch.double), torch.randn(T, K, dtype=torch.double)
    after_concat, after_add = linear(D + K, 2 * D), linear(D, 2 * D)
    add = Add(D, K).double()
    with torch.no_grad():
        after_concat.weight.copy_(torch.cat([after_add.weight, after_add.weight @ add.shift.weight], dim=1))
        after_concat.bias.copy_(after_add.bias + after_add.weight @ add.shift.bias)
    torch.testing.assert_close(after_concat(Concat(D, K)(h, z)), after_add(add(h, z)))


def choosing(features: int) -> Gate:
    """A gate that leaves block k of K blocks of features as it is where the code says k, and switches off the rest."""
    gate = Gate(features, K).double()
    with torch.no_grad():
        gate.scale.weight.copy_(torch.eye(K).repeat_interleave(features // K, dim=0))
        gate.scale.bias.fill_(-1)
    return gate


def test_multiplicative_gating_contains_independent_networks() -> None:
    networks = [nn.Sequential(linear(D, 7), nn.Tanh(), linear(7, OUT)) for _ in range(K)]
    x, task = torch.randn(T, M, D, dtype=torch.double), [2, 0, 1, 1, 2]
    side_by_side = torch.cat([network(x) for network in networks], dim=-1)
    y = choosing(K * OUT)(side_by_side, one_hot(task).double()).unflatten(-1, (K, OUT)).sum(-2)
    for t, k in enumerate(task):  # sum_j 1(z = j) y_j
        torch.testing.assert_close(y[t], networks[k](x[t]))


def test_multiplicative_gating_contains_independent_heads() -> None:
    heads, after = [linear(D, OUT) for _ in range(K)], nn.Linear(K * (D + 1), OUT, bias=False, dtype=torch.double)
    h, task = torch.randn(T, M, D, dtype=torch.double), [0, 2, 2, 1, 0]
    with_one = torch.cat([h, torch.ones(T, M, 1)], dim=-1)  # the one that a bias multiplies
    with torch.no_grad():
        after.weight.copy_(torch.cat([torch.cat([head.weight, head.bias[:, None]], 1) for head in heads], dim=1))
    y = after(choosing(K * (D + 1))(with_one.repeat(1, 1, K), one_hot(task).double()))
    for t, k in enumerate(task):
        torch.testing.assert_close(y[t], heads[k](h[t]))


def test_film_contains_the_gate_and_addition() -> None:
    h, z, film, gate, add = torch.randn(T, M, D), torch.randn(T, K), FiLM(D, K), Gate(D, K), Add(D, K)
    with torch.no_grad():
        film.scale_shift.weight.copy_(torch.cat([gate.scale.weight, add.shift.weight]))
        film.scale_shift.bias.copy_(torch.cat([gate.scale.bias, add.shift.bias]))
    torch.testing.assert_close(film(h, z), gate(h, z) + add(torch.zeros_like(h), z))


def test_heads_are_a_loop_over_linear_layers() -> None:
    heads, h, task = Heads(D, K, OUT), torch.randn(T, M, D), [1, 2, 0, 1, 1]
    assert heads.out_features == OUT
    y = heads(h, one_hot(task))
    for t, k in enumerate(task):
        torch.testing.assert_close(y[t], F.linear(h[t], heads.layers.weight[k], heads.layers.bias[k]))
    code = torch.rand(T, K)
    every = [heads(h, one_hot([k] * T)) for k in range(K)]
    torch.testing.assert_close(heads(h, code), sum(code[:, k, None, None] * every[k] for k in range(K)))


@pytest.mark.parametrize("norm", ["batch", "group", "support"])
def test_film_in_a_backbone_is_the_backbone_with_each_tasks_own_affine_layers(norm: str) -> None:
    backbone = Conv4((1, 16, 16), width=4, norm=norm).eval()
    films = BackboneFiLM(backbone.film_sizes(), K)
    assert set(films.sizes.values()) == {4}
    assert len(films.sizes) == 4  # every layer
    images = torch.rand(2, 7, 1, 16, 16)
    modulation = films(one_hot([2, 0]))
    features, _ = backbone.adapt(images, torch.ones(2, 7, dtype=torch.bool), modulation)
    for t, k in enumerate([2, 0]):
        own = copy.deepcopy(backbone)
        column = films.linear.weight[:, k] + films.linear.bias
        for i, block in enumerate(own.blocks):
            scale, shift = column[8 * i : 8 * i + 4], column[8 * i + 4 : 8 * i + 8]
            affine = block[1].norm
            with torch.no_grad():
                affine.weight.mul_(1 + scale)
                affine.bias.mul_(1 + scale).add_(shift)
        alone, _ = own.adapt(images[t : t + 1], torch.ones(1, 7, dtype=torch.bool))
        torch.testing.assert_close(features[t], alone[0], rtol=1e-4, atol=1e-4)


def test_the_code_reaches_every_normalisation_layer_of_the_shared_network() -> None:
    spec = TaskSpec((1, 16, 16), Classes(3), descriptor_size=3, tasks=("a", "b", "c"), index_size=3)
    learner, episodes = build(partial(HardSharing, film=True), spec), make_episodes(spec)
    phi = learner.adapt(episodes.support, episodes.descriptor)
    assert {name for name in phi if "film" in name} == {f"backbone.film.{i}" for i in range(4)}
    outputs(learner, episodes).square().sum().backward()
    for layer in learner.films.linear.weight.grad.split([2 * channels for channels in learner.films.sizes.values()]):
        assert layer.abs().max() > 1e-3


@pytest.mark.parametrize("condition", [Concat, Add, Gate, FiLM])
@pytest.mark.parametrize("check", CHECKS)
def test_hard_sharing_conforms_however_the_code_enters(condition: type[Conditioner], check: str) -> None:
    CHECKS[check](partial(HardSharing, condition=condition), SPECS["named tasks"])


def test_a_backbone_without_normalisation_is_not_modulated() -> None:
    with pytest.raises(ValueError, match="expected a backbone with normalisation layers to modulate"):
        BackboneFiLM(MLP((4,)).film_sizes(), K)
