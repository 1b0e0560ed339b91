"""The networks of Gordon et al.'s code (github.com/cambridge-mlg/convcnp), as formulas over the weights of ours."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.convcnp import ConvCNP
from metabox.targets import Reals, TaskSpec
from metabox.testing import build

LINE = TaskSpec((1,), Reals(1, min_scale=0.0))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("network", "whole", "cnn"),
    [("xl", 50_612, 50_520), ("small", 6_532, 6_472), ("wide", 329_220, 329_088)],
)
def test_a_network_has_as_many_weights_as_the_code_that_it_follows(network: str, whole: int, cnn: int) -> None:
    learner = ConvCNP(LINE, network=network)  # type: ignore[arg-type]
    assert (count(learner), count(learner.cnn)) == (whole, cnn)


def deep_set(x: Tensor, y: Tensor, at: Tensor, scales: Tensor) -> Tensor:
    """Σ_i y_i exp(-(x_i - t)² / 2 scale²): x `[N]`, y `[N, C]`, at `[M]`, a scale for each channel -> `[M, C]`."""
    squared = (x[:, None] - at[None]).square()[..., None]
    return (y[:, None] * (-squared / (2 * scales**2)).exp()).sum(0)


def u_net(layers: ConvCNP, x: Tensor) -> Tensor:
    """Six convolutions down, six transposed ones up; the one of the same size comes first in a concatenation."""
    down: list[Tensor] = []
    h = x
    for layer in layers.cnn.down:
        h = F.conv1d(h, layer.weight[:, :, 0], layer.bias, stride=2, padding=2).relu()
        down.append(h)
    for i, layer in enumerate(layers.cnn.up):
        weight = layer.weight[:, :, 0]
        if i:
            half = len(weight) // 2
            h, weight = torch.cat([down[5 - i], h], 1), torch.cat([weight[half:], weight[:half]])
        h = F.conv_transpose1d(h, weight, layer.bias, stride=2, padding=2, output_padding=1).relu()
    return torch.cat([x, h], 1)


def four_layers(layers: ConvCNP, x: Tensor) -> Tensor:
    for layer in layers.cnn.layers:
        x = F.conv1d(x, layer.weight[:, :, 0], layer.bias, padding=2).relu()
    return x


def authors(learner: ConvCNP, x: Tensor, y: Tensor, query: Tensor) -> Tensor:
    """Mean and standard deviation `[M, 2]` for one task: x `[N]`, y `[N]`, query `[M]`."""
    grid = learner.encode.grid
    at = grid.first + torch.arange(grid.size) / grid.points_per_unit
    seen = deep_set(x, torch.stack([torch.ones_like(y), y], 1), at, learner.encode.log_scale.exp())
    seen = torch.stack([seen[:, 0], seen[:, 1] / (seen[:, 0] + 1e-8)], 1)
    entered = torch.sigmoid(seen @ learner.embed.weight.T + learner.embed.bias)
    h = (u_net if learner.network == "xl" else four_layers)(learner, entered.T[None])[0].T
    mean, raw = (
        deep_set(at, h, query, decode.log_scale.exp()) @ linear.weight.T + linear.bias
        for decode, linear in zip(learner.decode, learner.readout, strict=True)
    )
    return torch.cat([mean, F.softplus(raw)], 1)


@pytest.mark.parametrize("network", ["xl", "small"])
def test_the_authors_networks_are_their_transcriptions(network: str) -> None:
    learner = build(partial(ConvCNP, network=network, points_per_unit=32), LINE)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in learner.parameters():  # of which none is left as it began
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        x, query = (4 * torch.rand(2, 6, generator=generator) - 2 for _ in range(2))
        y = torch.randn(2, 6, generator=generator)
        params = learner.predict(learner.adapt(Examples(x=x[..., None], y=y[..., None])), query[..., None])
        got = torch.cat(learner.spec.target.mean_and_scale(params), -1)
        wanted = torch.stack([authors(learner, x[t], y[t], query[t]) for t in range(2)])
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", ["xl", "small"])
@pytest.mark.parametrize(
    "spec", [LINE, TaskSpec((2,), Reals(3)), TaskSpec((1,), Reals(2), descriptor_size=3)], ids=["line", "plane", "told"]
)
def test_the_authors_networks_take_two_inputs_several_outputs_and_descriptors(network: str, spec: TaskSpec) -> None:
    learner = build(partial(ConvCNP, network=network, points_per_unit=2), spec).train()
    x, y = torch.rand(2, 5, *spec.x_shape), torch.randn(2, 5, spec.target.size)
    told = torch.randn(2, spec.descriptor_size) if spec.descriptor_size else None
    params = learner.predict(learner.adapt(Examples(x=x, y=y), told), x)
    assert params.shape == (2, 5, spec.target.n_params)
    params.square().sum().backward()
    assert not [name for name, p in learner.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_the_depth_of_the_authors_network_is_not_an_option() -> None:
    with pytest.raises(ValueError, match='expected a depth for network "wide" only, got 3 for "xl"'):
        ConvCNP(LINE, network="xl", depth=3)
