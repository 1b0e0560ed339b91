"""A learned linear map of the features of another backbone: what may be trained over a frozen network."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.nn.backbones import Backbone, MakeBackbone, make_backbone
from metabox.nn.norm import Context
from metabox.ranges import BelowOne, Count, Shape


class Projection(Backbone):
    """A learned linear map of another backbone's features, at one length (Mensink et al. 2013, equations 4 and 6).

    With `ProtoNet` it is their nearest class mean with a learned metric of low rank ("Distance-Based Image
    Classification: Generalizing to New Classes at Near-Zero Cost"). Deviations: features have length 1 before the map
    and a learned length, the same for all, after it; the map starts orthogonal, so that distances start nearly as those
    of the features; and it may be trained with dropout.

    Args:
        x_shape: the shape of one input.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: size of the projected features.
        dropout: share of the features that are set to 0 in training.
    """

    def __init__(
        self, x_shape: Shape, backbone: MakeBackbone | None = None, width: Count = 256, dropout: BelowOne = 0.0
    ) -> None:
        super().__init__(x_shape)
        self.backbone = make_backbone(backbone, self.x_shape)
        self.norm, self.dropout = self.backbone.norm, dropout
        self.linear = nn.Linear(self.backbone.out_features, width, bias=False)
        nn.init.orthogonal_(self.linear.weight)
        self.log_length = nn.Parameter(torch.tensor(math.log(4.0)))
        self.out_features = width

    def features(self, x: Tensor, context: Context) -> Tensor:
        h = self.backbone.features(x, context)
        h = F.normalize(h, dim=-1) * math.sqrt(h.shape[-1])
        h = self.linear(F.dropout(h, self.dropout, self.training))
        return F.normalize(h, dim=-1) * self.log_length.exp()
