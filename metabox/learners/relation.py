"""Relation network: a learned comparison of each query with each class. phi is the summed maps of each class."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.learners.base import Phi
from metabox.learners.method import Method
from metabox.learners.metric import MetricLearner
from metabox.nn.backbones import Backbone, MakeBackbone, image_shape
from metabox.nn.mlp import Perceptron
from metabox.nn.norm import Context, Norm, NormKind
from metabox.ranges import Count, Shape
from metabox.targets import TaskSpec


class RelationNet(MetricLearner):
    """Relation network (Sung et al. 2018, "Learning to Compare: Relation Network for Few-Shot Learning").

    The score of class k for a query is g(C(f_k, f(x))) (equation 1): g is the relation module, C concatenates feature
    maps in depth, and f_k is the element-wise sum of the maps of the class's support (section 3.2). The module has two
    blocks of 3x3 convolution, batch norm, ReLU and 2x2 max-pooling, a layer of 8 and one of 1 (section 3.4 and figure
    2).

    The score is read before the sigmoid that ends the module: as the logit of the class, for the log likelihood, or by
    `SquaredLoss`, the paper's regression of sigmoid scores to 0 and 1 (equation 2). The authors' code
    (github.com/floodsung/LearningToCompare_FSL) never leaves training mode, so that batch norm takes the statistics of
    a task's support, of its queries, and of its pairs of query and class, in the test too: queries see each other. That
    is norm "transductive", of `RelationConv` and of this class.

    Deviations: the first weights are torch's. A map that is too small is not halved. For features that are not maps (a
    backbone without `map_shape`), the module is a perceptron. A class without support is a map of zeros. A descriptor
    gates the features (`Gate`); the paper has none in its few-shot part.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default RelationConv for images, an MLP for vectors.
        width: channels of the relation module.
        hidden: units of its second to last layer.
        norm: whose statistics normalise a pair in the module for maps: running ones in evaluation ("batch"), or those
            of all pairs of the task.
        bias: whether the last layer has a bias. All classes share it, so only `SquaredLoss` can learn it.
    """

    method = Method(
        adapt=(
            ("embed", r"\known_n = \feat(x_n)"),
            ("sum of each class", r"\task = \{s_c\}_{c=1}^C, \quad s_c = \sum_{n \in \of{c}} \known_n"),
        ),
        predict=(
            ("pair", r"u_c = [s_c, \known], \quad s_c \in \task"),
            ("relation module", r"p(y = c \mid x, \task) = \softmax_c\big(\net{CNN}(u_c)\big)"),
        ),
        cost=("N", "M C"),
        kin={"ProtoNet": "a network that is learned compares, in place of a distance"},
    )

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 64,
        hidden: Count = 8,
        norm: Literal["batch", "transductive"] = "batch",
        bias: bool = False,
    ) -> None:
        if backbone is None and len(spec.x_shape) == 3:
            backbone = RelationConv
        super().__init__(spec, backbone)
        map_shape = self.embed.backbone.map_shape
        self.transductive = bool(map_shape) and norm == "transductive"  # type: ignore[misc]  # a class attribute elsewhere
        self.relation: nn.Module
        if map_shape:
            self.relation = MapRelation(map_shape, width, hidden, norm, bias)
        else:
            self.relation = Perceptron(2 * self.embed.out_features, width, 1, bias=bias)

    def represent(self, h: Tensor, member: Tensor, mask: Tensor) -> Phi:
        """`sums [T, C, D]` of the features of each class's support."""
        return {"sums": member.transpose(1, 2).to(h.dtype) @ h}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        h = self.embed(x, phi)
        pair = phi["sums"][:, None], h[:, :, None]
        known = (phi["classes"],) if isinstance(self.relation, MapRelation) else ()
        scores: Tensor = self.relation(*pair, *known)
        return scores.squeeze(-1)


class MapRelation(nn.Module):
    """The relation module for maps (Sung et al. 2018, figure 2): `[T, 1, C, D]`, `[T, M, 1, D]` -> `[T, M, C, 1]`.

    Args:
        map_shape: channels, height and width of a map, which is passed flattened, of length D.
        width: channels of the two blocks.
        hidden: units of the second to last layer.
        norm: whose statistics normalise a pair, "batch" or "transductive": those of the pairs of a query and a class.
        bias: whether the last layer has a bias.
    """

    def __init__(
        self, map_shape: tuple[int, int, int], width: int, hidden: int, norm: NormKind = "batch", bias: bool = False
    ) -> None:
        super().__init__()
        channels, *size = self.map_shape = tuple(map_shape)
        self.convolution = nn.Conv2d(2 * channels, width, 3, padding=1, bias=False)
        self.pools = nn.ModuleList()
        for _ in range(2):
            self.pools.append(nn.MaxPool2d(2) if min(size) > 1 else nn.Identity())
            size = [side // 2 for side in size] if min(size) > 1 else size
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(Norm(width, norm, f"relation.{i}") for i in range(2))
        self.score = nn.Sequential(
            *(nn.Flatten(), nn.Linear(width * math.prod(size), hidden), nn.ReLU(), nn.Linear(hidden, 1, bias=bias))
        )

    def forward(self, support: Tensor, query: Tensor, classes: Tensor) -> Tensor:
        """`classes [T, C]`: the label set, outside which a pair has no part in the statistics of its task."""
        # The first convolution of two concatenated maps is the sum of one for each: for M * C pairs, M + C maps.
        weights = self.convolution.weight.chunk(2, dim=1)
        a, b = (self._convolve(part, weight) for part, weight in zip((support, query), weights, strict=True))
        pairs = a + b
        if not pairs.numel():
            return pairs.new_zeros(*pairs.shape[:3], 1)
        valid = classes[:, None].expand(pairs.shape[:3]).flatten(1)
        h = self.pools[0](self._normed(0, pairs.flatten(0, 2), valid))
        h = self.pools[1](self._normed(1, self.second(h), valid))
        scores: Tensor = self.score(h).unflatten(0, pairs.shape[:3])
        return scores

    def _normed(self, i: int, h: Tensor, valid: Tensor) -> Tensor:
        return torch.relu(self.norms[i](h, Context(mask=valid, n_tasks=len(valid))))

    def _convolve(self, maps: Tensor, weight: Tensor) -> Tensor:
        flat = maps.reshape(-1, *self.map_shape)
        convolved: Tensor = F.conv2d(flat, weight, padding=1).unflatten(0, maps.shape[:3])
        return convolved


class RelationConv(Backbone):
    """Four convolutional blocks; the first two halve the image (Sung et al. 2018, section 3.4).

    Two poolings instead of four leave maps for the relation module to compare: 5x5 for an image of 28x28. The 3x3
    convolutions of the first two blocks are not padded, as in the authors' published code.

    Args:
        x_shape: `(channels, height, width)`.
        width: channels of every block, 64 in the paper.
        norm: whose statistics normalise an image (see `metabox.nn.norm.Norm`).
    """

    def __init__(self, x_shape: Shape, width: Count = 64, norm: NormKind = "batch") -> None:
        super().__init__(x_shape)
        self.norm = norm
        channels, height, width_px = image_shape(self)
        if min(height, width_px) < 10:
            raise ValueError(f"expected images of at least 10x10 for two blocks without padding, got {x_shape}")
        inputs = [channels, width, width, width]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, width, 3, padding=int(i > 1), bias=False) for i, channels in enumerate(inputs)
        )
        self.norms = nn.ModuleList(Norm(width, norm, str(i)) for i in range(4))
        self.map_shape = (width, ((height - 2) // 2 - 2) // 2, ((width_px - 2) // 2 - 2) // 2)
        self.out_features = math.prod(self.map_shape)
        self.to(memory_format=torch.channels_last)

    def features(self, x: Tensor, context: Context) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = torch.relu(norm(convolution(x), context))
            x = F.max_pool2d(x, 2) if i < 2 else x
        return x.flatten(1)
