"""EfficientNetLite0 beside the package whose weights it carries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metabox.nn.efficientnet import EfficientNetLite0
from metabox.nn.norm import Context


def published(weights: dict[str, Tensor]) -> torch.nn.Module:
    """The network of `efficientnet-lite-pytorch` with our weights, which stand in the same order."""
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed")
    network = package.EfficientNet.from_name("efficientnet-lite0")
    theirs = network.state_dict()
    named = dict(zip((name for name in theirs if not name.startswith("_fc.")), weights.values(), strict=True))
    network.load_state_dict(theirs | named)
    module: torch.nn.Module = network.eval()
    return module


def test_its_features_are_those_of_the_published_network() -> None:
    ours = EfficientNetLite0((3, 224, 224), size=None).eval()
    theirs = published(ours.layers.state_dict())
    x = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.extract_features((x.float() - 127) / 128).mean((2, 3))  # type: ignore[operator]
        found = ours(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_the_shipped_weights_tell_photographs_apart_from_noise_of_the_same_colours() -> None:
    trained, random = (EfficientNetLite0((3, 64, 64), pretrained=wanted, size=None).eval() for wanted in (True, False))
    assert trained.origin
    assert not random.origin
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    noise = ramp[..., torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        far = (trained(ramp) - trained(noise)).norm() / trained(ramp).norm()
    assert far > 0.5


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_weights_and_statistics_stay(freeze: bool) -> None:
    network = EfficientNetLite0((1, 32, 32), pretrained=False, freeze=freeze, size=None).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(torch.rand(4, 1, 32, 32))
    same = all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert same == freeze == (not any(p.requires_grad for p in network.parameters()))


def test_images_of_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="1 or 3 channels"):
        EfficientNetLite0((2, 32, 32))
    with pytest.raises(ValueError, match="expected images"):
        EfficientNetLite0((3,))


def test_it_resizes_to_its_size() -> None:
    network = EfficientNetLite0((3, 32, 32), pretrained=False, size=64).eval()
    seen: list[tuple[int, ...]] = []
    network.layers.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    network.features(torch.rand(1, 3, 32, 32), Context())
    assert seen == [(1, 3, 64, 64)]
