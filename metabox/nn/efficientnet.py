"""EfficientNet-Lite0 with the weights that come with the package: features of photographs without any download."""

from __future__ import annotations

import functools
from importlib import resources

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.nn.backbones import Backbone, image_shape, reads_initial_weights
from metabox.nn.norm import Context
from metabox.ranges import Count, Shape

BLOCKS = (  # kernel, blocks, stride of the first, expansion, channels (Tan & Le 2019, table 1)
    (3, 1, 1, 1, 16),
    (3, 2, 2, 6, 24),
    (5, 2, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (5, 3, 1, 6, 112),
    (5, 4, 2, 6, 192),
    (3, 1, 1, 6, 320),
)


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 without its last layer, trained on ImageNet by others (Tan & Le 2019, "EfficientNet").

    The lite form of EfficientNet-B0 has no squeeze-and-excitation and ReLU6 in place of swish. Padding, the epsilon of
    batch norm and the range of inputs are those of the TensorFlow original. The weights are in the package in half
    precision; `metabox/nn/weights/README.md` has their source and licence. Grey images are repeated to three channels.

    Args:
        x_shape: `(channels, height, width)`, with one channel or three.
        pretrained: use the weights of the package; otherwise random ones.
        freeze: do not change the weights and the statistics of batch norm.
        size: side of the square that images are resized to, bicubically; None leaves them unchanged.

    Raises:
        ValueError: if inputs are not images with one channel or three.
    """

    def __init__(
        self,
        x_shape: Shape,
        pretrained: bool = True,
        freeze: bool = True,
        size: Count | None = 128,
    ) -> None:
        super().__init__(x_shape)
        if image_shape(self)[0] not in (1, 3):
            raise ValueError(f"expected images of 1 or 3 channels for EfficientNetLite0, got x_shape {x_shape}")
        self.freeze, self.size, self.norm = freeze, size, "batch"
        layers: list[nn.Module] = [_ConvNorm(3, 32, 3, stride=2)]
        width = 32
        for kernel, n_blocks, stride, expansion, channels in BLOCKS:
            for i in range(n_blocks):
                layers.append(_Block(width, channels, kernel, stride if i == 0 else 1, expansion))
                width = channels
        layers.append(_ConvNorm(width, 1280, 1))
        self.layers = nn.Sequential(*layers)
        self.out_features = 1280
        if pretrained:
            self.origin = "EfficientNet-Lite0, trained on ImageNet by others"
            if reads_initial_weights():
                self.load_state_dict(_weights())
        self.layers.requires_grad_(not freeze)
        self.to(memory_format=torch.channels_last)
        self.train()

    def train(self, mode: bool = True) -> EfficientNetLite0:
        super().train(mode)
        self.layers.train(mode and not self.freeze)
        return self

    def packaged(self) -> dict[str, Tensor] | None:
        return _weights() if self.origin else None

    def features(self, x: Tensor, context: Context) -> Tensor:
        if self.size:
            x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        x = (x * 255 - 127) / 128
        x = x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        h: Tensor = self.layers(x)
        return h.mean((2, 3))


class _ConvNorm(nn.Sequential):
    """Convolution with TensorFlow's padding, batch norm, and ReLU6 unless it is the last one of a block."""

    def __init__(
        self, inputs: int, channels: int, kernel: int, stride: int = 1, groups: int = 1, last: bool = False
    ) -> None:
        conv = _SameConv(inputs, channels, kernel, stride, groups=groups, bias=False)
        norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
        super().__init__(conv, norm, *([] if last else [nn.ReLU6(inplace=True)]))


class _SameConv(nn.Conv2d):
    """Convolution with padding "SAME": the output has ceil(size / stride) pixels, and an odd pad is on the far side."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:]]
        height, width = pads
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class _Block(nn.Module):
    """The inverted residual block: expand, convolve each channel, project (Sandler et al. 2018, MobileNetV2)."""

    def __init__(self, inputs: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = _ConvNorm(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _ConvNorm(inner, inner, kernel, stride, groups=inner)
        self.project = _ConvNorm(inner, channels, 1, last=True)
        self.skip = stride == 1 and inputs == channels

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.project(self.depthwise(self.expand(x)))
        return h + x if self.skip else h


@functools.cache
def _weights() -> dict[str, Tensor]:
    from safetensors.torch import load

    content = (resources.files("metabox.nn") / "weights" / "efficientnet-lite0.safetensors").read_bytes()
    return load(content)
