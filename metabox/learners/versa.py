"""VERSA: a distribution over each class's linear weights, inferred from its support. phi is those distributions."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi, within
from metabox.learners.method import Method
from metabox.nn.backbones import Backbone, MakeBackbone, image_shape
from metabox.nn.embedding import Embedding
from metabox.nn.metric import exact
from metabox.nn.norm import Context, Norm, NormKind
from metabox.nn.sets import class_mean, membership
from metabox.ranges import BelowOne, Count, Shape
from metabox.targets import Classes, TaskSpec


class VERSA(Learner):
    """VERSA (Gordon et al. 2019, "Meta-Learning Probabilistic Inference for Prediction").

    Features h(x) are shared by all tasks. Weights and bias of class c are independent normals whose means and log
    variances are networks of the mean feature of the class's support alone: context independent, so any way and shot
    (section 3). p(y | x, D) is the mean of softmax(W_l h(x) + b_l) over L samples; the training objective is the log of
    that mean (section 2.2). As in the authors' published code (github.com/Gordonjo/versa), the logits are sampled,
    which are normal with variance sum_i h_i^2 var(w_i) + var(b), and a network has two ELU layers and a linear one.

    Deviations: in evaluation the L samples are fixed, so that a prediction is a function of phi: the same L quantiles
    of the normal for every class, in an order per class; renaming a class changes only which order it gets. One network
    infers a class's weights and bias together, where the code has one for each. Log variances are squashed to stay
    below 10. The last bias of the means, common to all classes, would have no effect and is left out. A class without
    support has the weights inferred from a mean feature of zero.

    The authors' code normalises the queries of a task by their own statistics, in the test too, so that they see each
    other: its numbers are those of `VERSAConv` with norm "transductive".

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: units of the hidden layers of the inference networks.
        n_samples: L, 10 in the authors' code.
    """

    method = Method(
        adapt=(
            ("embed", r"\known_n = \feat(x_n)"),
            ("mean of each class", r"\mu_c = \frac{1}{|\of{c}|} \sum_{n \in \of{c}} \known_n"),
            (
                "generate weights",
                r"\task = \{q_c\}_{c=1}^C, \quad q_c(w_c, b_c) = \mathcal{N}\big(\net{MLP}_m(\mu_c), \exp "
                r"\net{MLP}_s(\mu_c)\big)",
            ),
        ),
        predict=(
            (
                "sample logits",
                r"\ell_c^{(l)} = w_c^{(l)\top} \known + b_c^{(l)}, \quad (w_c^{(l)}, b_c^{(l)}) \sim q_c \in "
                r"\task",
            ),
            (
                "mean over samples",
                r"p(y = c \mid x, \task) = \frac{1}{L} \sum_{l=1}^L \softmax_c\big(\ell^{(l)}\big)",
            ),
        ),
        cost=("N", "M C"),
        kin={"ProtoNet": "networks generate a distribution of each class's weights, where they are the class mean"},
    )
    targets = (Classes,)

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 256,
        n_samples: Count = 10,
    ) -> None:
        super().__init__(spec)
        self.embed = Embedding(spec, backbone)
        features = self.embed.out_features
        self.mean = inference_network(features, width, features + 1, bias=False)
        self.log_variance = inference_network(features, width, features + 1)
        self.draws = normal_quantiles(n_samples, spec.target.size)  # not a buffer: saved weights do not depend on C

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `mean`, `log_variance [T, C, D + 1]` of each class's weights and, last, its bias.

        And the task statistics.
        """
        h, phi = self.embed.adapt(support, descriptor)
        member = membership(support.y, support.mask, self.spec.target.size)
        pooled = class_mean(h, member)
        log_variance = LARGEST * torch.tanh(self.log_variance(pooled) / LARGEST)
        return phi | {"mean": self.mean(pooled), "log_variance": log_variance}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        mean, variance = self.logits(phi, x)
        if self.training:
            draws = torch.randn(len(mean), len(self.draws), *mean.shape[1:], device=mean.device, dtype=mean.dtype)
        else:
            draws = self.draws[:, None].to(mean)
        samples = mean[:, None] + variance.sqrt()[:, None] * draws  # [T, L, M, C]
        return self.spec.target.mixture(within(samples, phi["classes"]))

    def logits(self, phi: Phi, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each logit, which is normal: x `[T, M, *x_shape]` -> two of `[T, M, C]`."""
        h = exact(self.embed(x, phi))
        with torch.autocast(h.device.type, enabled=False):
            h = torch.cat([h, torch.ones_like(h[..., :1])], dim=-1)
            mean, log_variance = exact(phi["mean"]), exact(phi["log_variance"])
            return h @ mean.transpose(1, 2), h.square() @ log_variance.exp().transpose(1, 2)


class VERSAConv(Backbone):
    """The networks of VERSA's published code (features.py): four blocks for Omniglot, five for miniImageNet.

    A block is a 3x3 convolution with the first weights of Glorot & Bengio 2010, batch norm with a shift only, ReLU,
    dropout of single numbers, and 2x2 max-pooling.

    Args:
        x_shape: `(channels, height, width)`.
        blocks: how many.
        pooling: "same" keeps an odd row, as for Omniglot (28x28 ends as 2x2); "valid" drops it, as for miniImageNet
            (84x84 ends as 2x2 after five blocks).
        width: channels of every block.
        drop_rate: share of numbers that are zero in training.
        norm: whose statistics normalise an image (see `metabox.nn.norm.Norm`); "transductive" in the code.

    Raises:
        ValueError: if inputs are not images, or too small for so many poolings.
    """

    def __init__(
        self,
        x_shape: Shape,
        blocks: Count = 4,
        pooling: Literal["same", "valid"] = "same",
        width: Count = 64,
        drop_rate: BelowOne = 0.1,
        norm: NormKind = "batch",
    ) -> None:
        super().__init__(x_shape)
        channels, *size = image_shape(self)
        self.norm, self.drop_rate, self.ceil = norm, drop_rate, pooling == "same"
        for _ in range(blocks):
            size = [math.ceil(side / 2) if self.ceil else side // 2 for side in size]
        if not math.prod(size):
            raise ValueError(
                f"expected images of at least {2**blocks}x{2**blocks} for {blocks} valid poolings, got {x_shape}"
            )
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width if i else channels, width, 3, padding=1, bias=False) for i in range(blocks)
        )
        self.norms = nn.ModuleList(Norm(width, norm, str(i), gain=False) for i in range(blocks))
        for convolution in self.convolutions:
            nn.init.xavier_normal_(convolution.weight)  # type: ignore[arg-type]  # a ModuleList has no item type
        self.map_shape = (width, size[0], size[1])
        self.out_features = math.prod(self.map_shape)
        self.to(memory_format=torch.channels_last)

    def features(self, x: Tensor, context: Context) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.dropout(torch.relu(norm(convolution(x), context)), self.drop_rate, self.training)
            x = F.max_pool2d(x, 2, ceil_mode=self.ceil)
        return x.flatten(1)


def inference_network(inputs: int, width: int, outputs: int, bias: bool = True) -> nn.Sequential:
    """Two ELU layers and a linear one, with the initial weights of Glorot & Bengio 2010 and biases near 0."""
    network = nn.Sequential(
        *(nn.Linear(inputs, width), nn.ELU(), nn.Linear(width, width), nn.ELU(), nn.Linear(width, outputs, bias=bias))
    )
    for parameter in network.parameters():
        nn.init.xavier_normal_(parameter) if parameter.ndim > 1 else nn.init.normal_(parameter, std=1e-3)
    return network


def normal_quantiles(n_samples: int, n_classes: int) -> Tensor:
    """Fixed standard normal draws `[L, C]`: the same L quantiles for each class, each in its own random order.

    Scaled to variance 1; a single draw is the mean.
    """
    random = torch.Generator().manual_seed(0)
    quantiles = torch.special.ndtri((torch.arange(n_samples) + 0.5) / n_samples)
    quantiles = quantiles / quantiles.square().mean().sqrt().clamp(min=1e-3)
    return torch.stack([quantiles[torch.randperm(n_samples, generator=random)] for _ in range(n_classes)], dim=1)


LARGEST = 10.0  # log variance, approached through tanh, so that variances stay finite
