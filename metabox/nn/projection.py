"""A learned linear map of the features of another backbone: what may be trained over a frozen network."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.nn.backbones import Backbone, MakeBackbone, make_backbone
from metabox.nn.norm import Context
from metabox.ranges import BelowOne, Count, Positive, Shape


class Projection(Backbone):
    """Features of another backbone plus a learned linear map of them, of low rank, at one length.

    With `ProtoNet` it is their nearest class mean with a learned metric (Mensink et al. 2013, "Distance-Based Image
    Classification: Generalizing to New Classes at Near-Zero Cost", equations 4 and 6). Deviations: the map is the
    identity plus a product of two matrices, the second of which starts at 0, so that training starts at the class mean
    and can only correct it; features are raised to a power and have length 1 before the map, as in Hu et al. 2021
    ("Leveraging the Feature Distribution in Transfer-based Few-Shot Learning", equation 2), and a learned length, the
    same for all, after it; a learned centre is subtracted from them, for which Wang et al. 2019 ("SimpleShot", section
    3.3) take the mean of the training images; and what the correction reads has dropout in training.

    Args:
        x_shape: the shape of one input.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        rank: of the correction.
        power: of the size of each feature; its sign stays. 1 changes nothing.
        dropout: share of the features that the correction does not see in training.
    """

    def __init__(
        self,
        x_shape: Shape,
        backbone: MakeBackbone | None = None,
        rank: Count = 128,
        power: Positive = 1.0,
        dropout: BelowOne = 0.0,
    ) -> None:
        super().__init__(x_shape)
        self.backbone = make_backbone(backbone, self.x_shape)
        self.norm, self.power, self.dropout = self.backbone.norm, power, dropout
        self.out_features = self.backbone.out_features
        self.down = nn.Linear(self.out_features, rank, bias=False)
        self.up = nn.Linear(rank, self.out_features, bias=False)
        nn.init.orthogonal_(self.down.weight)
        nn.init.zeros_(self.up.weight)
        self.centre = nn.Parameter(torch.zeros(self.out_features))
        self.log_length = nn.Parameter(torch.tensor(math.log(4.0)))

    def features(self, x: Tensor, context: Context) -> Tensor:
        h = self.backbone.features(x, context)
        if self.power != 1:
            h = h.sign() * (h.abs() + SMALLEST) ** self.power
        length = math.sqrt(h.shape[-1])
        h = F.normalize(F.normalize(h, dim=-1) * length - self.centre, dim=-1) * length
        h = h + self.up(self.down(F.dropout(h, self.dropout, self.training)))
        return F.normalize(h, dim=-1) * self.log_length.exp()


SMALLEST = 1e-6
"""Added to a feature's size before a power, whose slope at 0 may be infinite."""
