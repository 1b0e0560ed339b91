"""Backbones for series."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from metabox.nn.backbones import Backbone
from metabox.nn.backbones_1d import Conv1d, DilatedConv1d


@pytest.mark.parametrize("make", [Conv1d, DilatedConv1d])
@pytest.mark.parametrize("shape", [(3, 128), (1, 5), (2, 1), (4, 17)])
def test_any_length_gives_as_many_features_as_it_says_each_series_on_its_own(
    make: type[Backbone], shape: tuple[int, ...]
) -> None:
    backbone = make(shape, width=6).eval()
    series = torch.randn(2, 3, *shape)
    whole = backbone(series)
    assert whole.shape == (2, 3, backbone.out_features)
    torch.testing.assert_close(backbone(series[1, 2]), whole[1, 2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [Conv1d, DilatedConv1d])
@pytest.mark.parametrize("norm", ["support", "task", "transductive", "group"])
def test_task_statistics_work_for_series_too(make: type[Backbone], norm: str) -> None:
    backbone = make((3, 32), width=8, norm=norm)
    series, mask = torch.randn(2, 4, 3, 32), torch.ones(2, 4, dtype=torch.bool)
    features, task = backbone.adapt(series, mask)
    assert features.shape == backbone(series, task).shape == (2, 4, backbone.out_features)
    assert set(backbone.film_sizes().values()) == {8}


def test_four_blocks_are_convolutions_and_halvings() -> None:
    backbone = Conv1d((2, 20), width=5, kernel_size=5).eval()
    x = series = torch.randn(1, 2, 20)
    for conv, norm in backbone.blocks:
        x = functional.conv1d(x, conv.weight, padding=2) / (1 + norm.norm.eps) ** 0.5
        x = functional.max_pool1d(x.relu(), 2, ceil_mode=True)
    torch.testing.assert_close(backbone(series), x.flatten(1))
    assert Conv1d((2, 20), width=5, pool="mean").out_features == 5


@pytest.mark.parametrize(("depth", "kernel_size"), [(1, 3), (3, 3), (2, 5)])
def test_dilated_blocks_see_as_far_as_they_say(depth: int, kernel_size: int) -> None:
    backbone = DilatedConv1d((1, 101), width=4, depth=depth, kernel_size=kernel_size).double().eval()
    for weight in backbone.parameters():  # positive throughout, so that no ReLU blocks a path
        weight.data.abs_()
    series = torch.rand(1, 1, 101, dtype=torch.float64, requires_grad=True)
    x = backbone.stem(series)
    places = []
    handle = backbone.blocks[-1][3].register_forward_hook(lambda *args: places.append(args[2]))
    backbone(series)
    handle.remove()
    (gradient,) = torch.autograd.grad(places[0][0, :, 50].sum(), series)
    reach = (kernel_size - 1) * (2**depth - 1)
    assert gradient[0, 0].nonzero().flatten().tolist() == list(range(50 - reach, 50 + reach + 1))
    assert x.shape[2] == 101


@pytest.mark.parametrize("make", [Conv1d, DilatedConv1d])
def test_what_is_no_series_is_refused(make: type[Backbone]) -> None:
    with pytest.raises(ValueError, match=r"expected series \[channels, length\] for .*; use MLP, or Conv4 for images"):
        make((3, 8, 8))
    with pytest.raises(ValueError, match="expected kernel_size as an odd number"):
        make((3, 8), kernel_size=4)
