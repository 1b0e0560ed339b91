"""Layers with the weights of each task against a loop of torch's layers, and Ha et al.'s equation 2 written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.nn.generated import StaticHyper, task_conv2d, task_linear

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def random(*shape: int, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, dtype=torch.double).to(device).requires_grad_()


def assert_same_with_gradients(got: Tensor, wanted: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(got, wanted)
    direction = torch.randn_like(got)
    for a, b in zip(*(torch.autograd.grad(y, inputs, direction) for y in (got, wanted)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_linear_layer_of_each_task_is_a_loop_of_linear_layers(with_bias: bool, device: str) -> None:
    torch.manual_seed(0)
    x, weight, bias = random(3, 5, 4, device=device), random(3, 2, 4, device=device), random(3, 2, device=device)
    wanted = torch.stack([F.linear(x[t], weight[t], bias[t] if with_bias else None) for t in range(3)])
    inputs = [x, weight, bias] if with_bias else [x, weight]
    assert_same_with_gradients(task_linear(*inputs), wanted, inputs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("padding", "stride"), [(0, 1), (1, 1), (1, 2), ("same", 1)])
def test_a_convolution_of_each_task_is_a_loop_of_convolutions(
    padding: int | str, stride: int, with_bias: bool, device: str
) -> None:
    torch.manual_seed(0)
    x, weight = random(3, 5, 2, 7, 6, device=device), random(3, 4, 2, 3, 3, device=device)
    inputs = [x, weight, random(3, 4, device=device)] if with_bias else [x, weight]
    biases = inputs[2] if with_bias else [None] * 3
    loop = [F.conv2d(x[t], weight[t], biases[t], padding=padding, stride=stride) for t in range(3)]
    assert_same_with_gradients(task_conv2d(*inputs, padding=padding, stride=stride), torch.stack(loop), inputs)


def test_in_bf16_they_stay_as_close_as_torchs_layers_do() -> None:
    torch.manual_seed(0)
    x, kernel, bias = torch.randn(3, 5, 2, 7, 7), torch.randn(3, 4, 2, 3, 3), torch.randn(3, 4)
    exact = task_conv2d(x, kernel, bias, padding=1), task_linear(x.flatten(2), kernel.new_ones(3, 4, 98) / 98, bias)
    with torch.autocast("cpu", torch.bfloat16):
        rough = task_conv2d(x, kernel, bias, padding=1), task_linear(x.flatten(2), kernel.new_ones(3, 4, 98) / 98, bias)
    for a, b in zip(rough, exact, strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a.float(), b, rtol=0.02, atol=0.1)


def test_no_inputs_give_no_outputs() -> None:
    assert task_conv2d(torch.zeros(3, 0, 2, 7, 6), torch.zeros(3, 4, 2, 3, 3), padding=1, stride=2).shape == (
        3, 0, 4, 4, 3,
    )  # fmt: skip
    assert task_linear(torch.zeros(3, 0, 4), torch.zeros(3, 2, 4), torch.zeros(3, 2)).shape == (3, 0, 2)


def test_weights_of_other_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="expected inputs and weights of the same tasks, got 3 and 1"):
        task_linear(torch.zeros(3, 5, 4), torch.zeros(1, 2, 4))
    with pytest.raises(ValueError, match="expected inputs and weights of the same tasks, got 2 and 3"):
        task_conv2d(torch.zeros(2, 5, 2, 7, 6), torch.zeros(3, 4, 2, 3, 3))


@pytest.mark.parametrize("f", [1, 3])
def test_the_static_hypernetwork_is_equation_2(f: int) -> None:
    """K^j of f N_in rows and N_out f columns is made of N_in slices K_i of f rows, one below the other."""
    torch.manual_seed(0)
    n_in, n_out, d = 2, 5, 6
    g, z = StaticHyper(4, n_in, n_out, f, hidden=d), torch.randn(3, 4)
    w_in, b_in = g.inner.weight.view(n_in, d, 4), g.inner.bias.view(n_in, d)
    w_out, b_out = g.outer.weight.view(f, n_out * f, d), g.outer.bias.view(f, n_out * f)
    for t in range(3):
        slices = [torch.tensordot(w_out, w_in[i] @ z[t] + b_in[i], dims=1) + b_out for i in range(n_in)]
        k = torch.cat(slices)  # f N_in x N_out f
        for o in range(n_out):
            for i in range(n_in):
                wanted = k[i * f : (i + 1) * f, o * f : (o + 1) * f] / (n_in * f * f) ** 0.5
                torch.testing.assert_close(g(z)[t, o, i], wanted)


def test_the_static_hypernetwork_has_as_many_parameters_as_the_paper_counts() -> None:
    """Section 4.1: from an embedding of 4 numbers, 4,240 parameters make the 7 x 7 x 16 x 16 weights of a layer."""
    g = StaticHyper(4, 16, 16, 7)
    assert sum(p.numel() for p in g.parameters()) == 4240
    assert g(torch.zeros(4)).shape == (16, 16, 7, 7)
