"""The residual network whose channels grow as maps shrink."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metabox.nn.norm import Context
from metabox.nn.strided_resnet import StridedResNet


def test_it_is_what_the_docstring_says_layer_by_layer() -> None:
    backbone = StridedResNet((2, 21, 18), widths=(4, 6), blocks=(0, 2), drop_rate=0.5).eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias)
    x = torch.rand(5, 2, 21, 18)
    weights = dict(backbone.named_parameters())

    def conv(x: torch.Tensor, kernel: str, norm: str, stride: int = 1) -> torch.Tensor:
        x = F.conv2d(x, weights[f"stages.{kernel}.weight"], stride=stride, padding=1) / (1 + 1e-5) ** 0.5
        gain, shift = (weights[f"stages.{norm}.norm.{part}"][:, None, None] for part in ("weight", "bias"))
        return x * gain + shift

    h = torch.relu(conv(torch.relu(conv(x, "0.0", "0.1", 2)), "1.0", "1.1", 2))
    for block in ("1.2", "1.3"):
        inner = torch.relu(conv(h, f"{block}.convs.0", f"{block}.norms.0"))
        h = torch.relu(h + conv(inner, f"{block}.convs.1", f"{block}.norms.1"))
    assert backbone.map_shape == (6, 6, 5)
    torch.testing.assert_close(backbone(x), h.flatten(1), rtol=1e-4, atol=1e-5)


def test_a_left_out_block_is_the_identity_and_the_others_make_up_for_it() -> None:
    torch.manual_seed(0)
    backbone = StridedResNet((1, 16, 16), widths=(8,), blocks=(4,), skip_rate=0.6)
    blocks = list(backbone.stages[0])[2:]
    assert [block.skip_rate for block in blocks] == pytest.approx([0.15, 0.3, 0.45, 0.6])
    block = blocks[-1]
    nn.init.ones_(block.norms[1].norm.bias)
    nn.init.zeros_(block.norms[1].norm.weight)  # the block adds one everywhere
    x = torch.rand(1000, 8, 2, 2)
    added = (block(x, Context()) - x).flatten(1)
    assert added.std(1).max() < 1e-5
    left_out = added[:, 0].abs() < 1e-5
    assert 0.55 < left_out.float().mean() < 0.65
    torch.testing.assert_close(added[~left_out], torch.full_like(added[~left_out], 1 / 0.4), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(block.eval()(x, Context()) - x, torch.ones_like(x))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"widths": (8, 16)}, r"as many blocks as widths, .* got widths \(8, 16\) and blocks \(0, 1, 1, 0\)"),
        ({"widths": (), "blocks": ()}, r"got widths \(\) and blocks \(\)"),
        ({"skip_rate": 1.0}, "below 1"),
    ],
)
def test_stages_that_do_not_fit_are_refused(options: dict[str, tuple[int, ...]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        StridedResNet((1, 28, 28), **options)
