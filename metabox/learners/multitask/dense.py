"""Dense multi-task network: one shared feature map, one head for each named part of the target."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.method import Method
from metabox.nn.backbones import MLP, MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.sets import masked_mean
from metabox.nn.unet import UNet
from metabox.ranges import Count
from metabox.targets import Part, Parts, TaskSpec


class DenseMultiTask(Learner):
    """Hard sharing for targets at every pixel (Caruana 1997, "Multitask learning"; the network of Ronneberger et al.
    2015, "U-Net"): the backbone is shared, and every part has a head of two 1x1 convolutions.

    A part without spatial axes is read from the mean over the pixels, and a part at another resolution than the feature
    map from its means over areas. The heads also see the task code at every pixel: the descriptor z, if there is one,
    and a code inferred from the support, r = mean_i mean_pixels e(features(x_i), y_i), as in the conditional neural
    process (Garnelo et al. 2018, equations 1 and 2). An empty support has r = 0.

    Deviations: labels enter e as maps of the feature map's size, classes as one-hot maps, with further maps that mark
    where the label is known, so that a missing label differs from one that is zero.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default UNet for images, an MLP for vectors. Without a feature map, its
            features are a map of one pixel.
        width: units of the heads and of r.

    Raises:
        ValueError: if a part has neither zero nor two spatial axes.
    """

    method = Method(
        adapt=(
            ("encode each map", r"r_n = \operatorname{mean}_{\mathrm{pixels}}\, \net{e}(\known_n, y_n)"),
            ("mean, descriptor", r"\task = \Big[\z, \frac{1}{N} \sum_n r_n\Big]"),
        ),
        predict=(
            ("shared backbone", r"\known = \feat(x)"),
            (
                "head of each part",
                r"p(y_k \mid x, \task) = p\big(y_k; \net{head}_k(\known, \task)\big) \text{ at each pixel}",
            ),
        ),
        cost=("N", "M"),
        kin={
            "HardSharing": "the tasks are the parts of a target, at every pixel",
            "CNP": "one head for each part, on maps",
        },
    )
    targets = (Parts,)

    def __init__(self, spec: TaskSpec, *, backbone: MakeBackbone | None = None, width: Count = 32) -> None:
        super().__init__(spec)
        self.target = cast(Parts, spec.target)
        wrong = [part.name for part in spec.target.parts if len(part.spatial) not in (0, 2)]
        if wrong:
            raise ValueError(f"expected parts of no or two spatial axes, got others in {wrong}")
        # The descriptor joins the features at every pixel below, not as one long vector.
        self.embed = Embedding(replace(spec, descriptor_size=0), backbone or (UNet if len(spec.x_shape) == 3 else MLP))
        self.map_shape = self.embed.backbone.map_shape or (self.embed.out_features, 1, 1)
        features = self.map_shape[0]
        labels = sum(part.size + math.prod(part.target.shape) for part in spec.target.parts)
        self.encoder = _pixelwise(features + labels, width, width)
        code = width + spec.descriptor_size
        self.heads = nn.ModuleList(_pixelwise(features + code, width, maps_of(part)) for part in spec.target.parts)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `code [T, Z]`, and the task statistics."""
        h, phi = self.embed.adapt(support)
        t, n = support.mask.shape
        pairs = torch.cat([h.view(t * n, *self.map_shape), self._label_maps(support.y).to(h.dtype)], dim=1)
        r = masked_mean(self.encoder(pairs).mean((2, 3)).unflatten(0, (t, n)), support.mask)
        phi["code"] = r if descriptor is None else torch.cat([r, descriptor.to(r.dtype)], dim=-1)
        return phi

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        h = self.embed(x, phi).view(-1, *self.map_shape)
        code = phi["code"].repeat_interleave(x.shape[1], dim=0).to(h.dtype)[..., None, None]
        params = []
        for part, head in zip(self.target.parts, self.heads, strict=True):
            area = resized(h, area_of(part))
            params.append(head(torch.cat([area, code.expand(-1, -1, *area.shape[2:])], dim=1)).flatten(1))
        return torch.cat(params, dim=1).view(*x.shape[:2], self.n_params)

    def _label_maps(self, y: Tensor) -> Tensor:
        """Targets `[T, N, K]` to `[T N, maps, height, width]` of the feature map's size."""
        maps = []
        for part, columns in zip(self.target.parts, self.target.split(y.flatten(0, 1)), strict=True):
            hot, known = part.encode(columns).split([part.size * part.places, part.columns], dim=-1)
            for each in (hot, known):
                maps.append(resized(each.float().unflatten(1, (-1, *area_of(part))), self.map_shape[1:]))
        return torch.cat(maps, dim=1)


def area_of(part: Part) -> tuple[int, int]:
    """Height and width of a part's map; 1 x 1 without spatial axes."""
    height, width = part.spatial or (1, 1)
    return height, width


def maps_of(part: Part) -> int:
    """Natural parameters of a part per pixel."""
    return part.n_params // part.places


def _pixelwise(inputs: int, width: int, outputs: int) -> nn.Module:
    """A perceptron with one hidden layer, applied to each pixel."""
    return nn.Sequential(nn.Conv2d(inputs, width, 1), nn.GELU(), nn.Conv2d(width, outputs, 1))


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize by means over areas or repetition: `[B, maps, *size]`."""
    if maps.shape[2:] == size:
        return maps
    if size == (1, 1):
        return maps.mean((2, 3), keepdim=True)
    return F.adaptive_avg_pool2d(maps, size)
