"""CNAPs: the support modulates the feature extractor and generates the classifier. phi is both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.method import Method
from metabox.nn.backbones import MLP, Backbone, MakeBackbone
from metabox.nn.conditioning import FiLM
from metabox.nn.embedding import Embedding
from metabox.nn.metric import exact
from metabox.nn.norm import Context
from metabox.nn.sets import class_mean, masked_mean, membership
from metabox.ranges import Count, Shape
from metabox.targets import Classes, TaskSpec


class CNAPs(Learner):
    """Conditional neural adaptive processes (Requeima et al. 2019).

    The paper is "Fast and Flexible Multi-Task Classification Using Conditional Neural Adaptive Processes"; the
    following is in its section 2.2. A set encoder gives the task code z_G, the mean over the support of a small
    network. From it, an adaptation network for each normalisation layer generates scale and shift of every channel
    (FiLM). From the modulated features, another network generates each class's linear weights and bias, from the mean
    feature of its support: any way and shot. Sizes and architectures are those of the authors' published code
    (github.com/cambridge-mlg/cnaps), in its variant "film", without the auto-regressive part.

    Deviations: the auto-regressive local codes z_AR are left out (the paper has results for both). The feature
    extractor is trained with the rest, where the paper has a ResNet-18, pre-trained on ImageNet and frozen. There is no
    penalty on the amounts of modulation; the outer loop's weight decay takes its place. The set encoder pools an image
    only while it can be halved, and is an MLP for vectors. A backbone without normalisation layers has its output
    modulated. A bias that all classes would share would have no effect and is left out. A class without support has the
    weights generated from a mean feature of zero.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: size of the task code, and channels of the set encoder.
    """

    method = Method(
        adapt=(
            ("pool the support", r"g = \frac{1}{N} \sum_n \net{CNN}(x_n)"),
            (
                "generate modulation",
                r"(\gamma_l, \beta_l) = \net{MLP}_l(g), \quad \feat_{\gamma, \beta}: h_l \mapsto \gamma_l \had "
                r"h_l + \beta_l",
            ),
            (
                "generate weights",
                r"\task = \{\gamma, \beta, w_c, b_c\}, \quad (w_c, b_c) = \net{MLP}\Big(\frac{1}{|\of{c}|} "
                r"\sum_{n \in \of{c}} \feat_{\gamma, \beta}(x_n)\Big)",
            ),
        ),
        predict=(
            ("modulated backbone", r"\known = \feat_{\gamma, \beta}(x), \quad \gamma, \beta \in \task"),
            ("linear", r"p(y = c \mid x, \task) = \softmax_c\big(w_c^\top \known + b_c\big)"),
        ),
        cost=("N", "M C"),
        kin={"VERSA": "a task code modulates the backbone too, and weights have no distribution"},
    )
    targets = (Classes,)
    label_equivariant = True

    def __init__(self, spec: TaskSpec, *, backbone: MakeBackbone | None = None, width: Count = 64) -> None:
        super().__init__(spec)
        self.embed = Embedding(spec, backbone)
        self.encoder: Backbone = SetConv(spec.x_shape, width) if len(spec.x_shape) == 3 else MLP(spec.x_shape, width)
        sizes, features = self.embed.backbone.film_sizes(), self.embed.out_features
        self.layers = tuple(sizes)
        self.films = nn.ModuleList(FiLMGenerator(width, channels) for channels in sizes.values())
        self.modulate = None if sizes else FiLM(features, width)
        self.weight = generator(features, features)
        self.bias = generator(features, 1)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `weights [T, C, D]`, `biases [T, C]` of the classifier, and the task statistics.

        These include the layers' scales and shifts, `backbone.film.NAME [T, 2, channels]`; if the backbone has no
        normalisation layers, phi has the `code [T, Z]` instead.
        """
        code = masked_mean(self.encoder(support.x), support.mask)
        films = {f"film.{name}": film(code) for name, film in zip(self.layers, self.films, strict=True)}
        h, phi = self.embed.adapt(support, descriptor, task=films)
        if self.modulate:
            h, phi["code"] = self.modulate(h, code), code
        pooled = class_mean(h, membership(support.y, support.mask, self.spec.target.size))
        phi["weights"] = pooled + self.weight(pooled)
        phi["biases"] = self.bias(pooled).squeeze(-1)
        return phi

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        h = self.embed(x, phi)
        if self.modulate:
            h = self.modulate(h, phi["code"])
        with torch.autocast(h.device.type, enabled=False):
            return exact(h) @ exact(phi["weights"]).transpose(1, 2) + exact(phi["biases"])[:, None]


class FiLMGenerator(nn.Module):
    """A code `[T, Z]` to the scale (minus 1) and shift of a layer's channels, `[T, 2, channels]`.

    One shared ReLU layer, then three residual layers for each of the two, and a learned amount that starts near 0.

    Args:
        code: width of the code.
        channels: of the layer.
    """

    decayed = ("amount",)  # which the paper penalises

    def __init__(self, code: int, channels: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(code, channels), nn.ReLU())
        self.scale, self.shift = (
            nn.Sequential(Residual(channels), nn.ReLU(), Residual(channels), nn.ReLU(), Residual(channels))
            for _ in range(2)
        )
        self.amount = nn.Parameter(torch.randn(2, channels) * 1e-3)

    def forward(self, code: Tensor) -> Tensor:
        code = self.shared(code)
        return torch.stack([self.scale(code), self.shift(code)], dim=1) * self.amount


class Residual(nn.Module):
    """x + a linear map of x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.linear(x)
        return x + change


def generator(features: int, outputs: int) -> nn.Sequential:
    """A network from class means to weights or biases of the classifier: two ELU layers and a linear one."""
    return nn.Sequential(
        *(nn.Linear(features, outputs), nn.ELU(), nn.Linear(outputs, outputs), nn.ELU()),
        nn.Linear(outputs, outputs, bias=False),
    )


class SetConv(Backbone):
    """The set encoder before pooling: five blocks of 3x3 convolution, batch norm, ReLU and halving; then the mean.

    Args:
        x_shape: `(channels, height, width)`.
        width: channels of every block, and size of the features.
    """

    norm = "batch"

    def __init__(self, x_shape: Shape, width: Count = 64) -> None:
        super().__init__(x_shape)
        channels, *size = self.x_shape
        layers: list[nn.Module] = []
        for i in range(5):
            layers += [nn.Conv2d(width if i else channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)][: 2 if min(size) > 1 else 1]
            size = [side // 2 for side in size] if min(size) > 1 else size
        self.layers = nn.Sequential(*layers)
        self.out_features = width
        self.to(memory_format=torch.channels_last)

    def features(self, x: Tensor, context: Context) -> Tensor:
        h: Tensor = self.layers(x.contiguous(memory_format=torch.channels_last))
        return h.mean((2, 3))
