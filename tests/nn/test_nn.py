"""The parts in nn/: attention, pooling of sets and backbones, against loops and plain formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.nn.attention import dot_product_attention
from metabox.nn.backbones import MLP, Backbone, Conv4, make_backbone
from metabox.nn.sets import class_mean, masked_mean, membership
from metabox.nn.transformer import TransformerLayer
from metabox.targets import Classes, Reals, TaskSpec

CLASSES = TaskSpec((4,), Classes(3))
REALS = TaskSpec((2,), Reals(2))
DESCRIBED = TaskSpec((4,), Classes(3), descriptor_size=2)
DESCRIBED_REALS = TaskSpec((2,), Reals(1), descriptor_size=3)
KINDS = [CLASSES, REALS, DESCRIBED, DESCRIBED_REALS]


def mean(parts: list[Tensor]) -> Tensor:
    """Of vectors of 5 numbers."""
    return sum(parts, torch.zeros(5)) / max(len(parts), 1)


def test_attention_over_nothing_is_finite_and_gives_the_null_value() -> None:
    torch.manual_seed(0)
    block = TransformerLayer(8, 2, 32, "gelu", sink=True)
    tokens = torch.randn(3, 5, 8, requires_grad=True)
    keys, values = block.keys_values(torch.randn(3, 4, 8) * 100)
    out = block(tokens, keys, values, torch.zeros(3, 1, 4, dtype=torch.bool))
    after = tokens + block.out(block.sink[1].flatten())
    torch.testing.assert_close(out, after + block.feed_forward(block.norms[1](after)))
    out.sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.isfinite().all()


@pytest.mark.parametrize("n_keys", [1, 7, 8, 15, 16, 17, 25])
@pytest.mark.parametrize("of_each", [True, False])
def test_attention_is_the_plain_formula_for_any_number_of_keys(n_keys: int, of_each: bool) -> None:
    random = torch.Generator().manual_seed(n_keys)
    query, key, value = (torch.randn(3, 2, n, 4, generator=random) for n in (5, n_keys, n_keys))
    visible = torch.rand(3, 1, 5 if of_each else 1, n_keys, generator=random) < 0.5
    visible[..., 0] = True
    likeness = (query @ key.mT / 2).masked_fill(~visible, -torch.inf)
    torch.testing.assert_close(dot_product_attention(query, key, value, visible), likeness.softmax(-1) @ value)


def test_means_of_sets_are_means_by_loops() -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(4, 7, 5, generator=random)
    mask = torch.rand(4, 7, generator=random) < 0.6
    mask[3] = False
    y = torch.randint(3, (4, 7), generator=random).masked_fill(~mask, 99)  # nonsense where there is no example
    member = membership(y, mask, 3)
    pooled, by_class = masked_mean(values, mask), class_mean(values, member)
    for t in range(4):
        real = [(values[t, i], int(y[t, i])) for i in range(7) if mask[t, i]]
        torch.testing.assert_close(pooled[t], mean([value for value, _ in real]))
        for c in range(3):
            torch.testing.assert_close(by_class[t, c], mean([value for value, label in real if label == c]))
    for t in range(4):
        for i in range(7):
            wanted = [float(mask[t, i] and y[t, i] == c) for c in range(3)]
            assert member[t, i].tolist() == wanted


@pytest.mark.parametrize("downsample", ["pool", "stride", "stem"])
@pytest.mark.parametrize("size", [(16, 16), (28, 28), (17, 30), (84, 84)])
@pytest.mark.parametrize("channels", [1, 3])
def test_conv4_gives_as_many_features_as_it_says(downsample: str, size: tuple[int, int], channels: int) -> None:
    backbone = Conv4((channels, *size), width=4, downsample=downsample).eval()
    images = torch.randint(256, (2, 3, channels, *size), dtype=torch.uint8)
    assert backbone(images).shape == (2, 3, backbone.out_features)
    assert backbone(images[:, :0]).shape == (2, 0, backbone.out_features)


def test_omniglots_images_end_as_64_features_as_in_the_paper() -> None:
    assert Conv4((1, 28, 28)).out_features == 64
    assert Conv4((1, 28, 28), downsample="stride").out_features == 4 * 64
    assert Conv4((3, 84, 84)).out_features == 25 * 64


@pytest.mark.parametrize("make", [Conv4, MLP])
def test_bytes_and_their_255th_parts_are_the_same_image(make: type[Backbone]) -> None:
    backbone = make((1, 16, 16)).eval()
    images = torch.randint(256, (2, 3, 1, 16, 16), dtype=torch.uint8)
    assert torch.equal(backbone(images), backbone(images.float() / 255))


def test_a_backbone_treats_every_input_on_its_own() -> None:
    for backbone in (Conv4((1, 16, 16)).eval(), MLP((1, 16, 16), width=8, depth=3)):
        images = torch.rand(2, 3, 1, 16, 16)
        whole = backbone(images)
        for t in range(2):
            for n in range(3):
                torch.testing.assert_close(backbone(images[t, n]), whole[t, n], rtol=1e-4, atol=1e-5)


def test_mlp_is_layers_of_matrices_and_gelus() -> None:
    backbone = MLP((2, 3), width=5, depth=2)
    weights = [layer for layer in backbone.layers if isinstance(layer, nn.Linear)]
    h = torch.randn(6)
    wanted = h
    for layer in weights:
        wanted = layer.weight @ wanted + layer.bias
        wanted = wanted * torch.special.ndtr(wanted)
    assert len(weights) == 2
    torch.testing.assert_close(backbone(h.view(2, 3)), wanted)
    assert MLP((2, 3), depth=0).out_features == 6


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4,), r"expected images \[channels, height, width\] for Conv4, got x_shape \(4,\); use MLP"),
        ((1, 15, 15), r"expected images of at least 16x16 for four poolings, got \(1, 15, 15\)"),
    ],
)
def test_a_conv4_that_cannot_be_is_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Conv4(shape)


def test_images_get_a_conv4_and_vectors_an_mlp_unless_told_otherwise() -> None:
    assert isinstance(make_backbone(None, (1, 16, 16)), Conv4)
    assert isinstance(make_backbone(None, (5,)), MLP)
    assert isinstance(make_backbone(MLP, (1, 16, 16)), MLP)


def test_an_input_may_be_a_single_number() -> None:
    assert MLP(())(torch.zeros(2, 3)).shape == (2, 3, 128)


def test_attention_on_a_cpu_is_float32_under_autocast_because_the_kernel_is_slow_in_bf16(monkeypatch) -> None:
    seen = []
    kernel = F.scaled_dot_product_attention

    def spy(*args, **kwargs):
        seen.append({part.dtype for part in args} | {torch.is_autocast_enabled("cpu")})
        return kernel(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    layer, tokens = TransformerLayer(8, 2, 16), torch.randn(2, 3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        layer(tokens, *layer.keys_values(tokens), torch.ones(2, 1, 3, dtype=torch.bool))
    assert seen == [{torch.float32, False}]
