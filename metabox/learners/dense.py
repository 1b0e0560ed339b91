"""Dense multi-task network: one shared map of features, one head for each named part of the target."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.episodes import Examples, TaskSpec
from metabox.learners.base import Learner, Phi
from metabox.nn.backbones import MLP, MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.sets import masked_mean
from metabox.nn.unet import UNet
from metabox.parts import Part, split_parts


class DenseMultiTask(Learner):
    """Hard sharing for targets at every pixel (Caruana 1997, "Multitask learning"; the network of Ronneberger et al.
    2015, "U-Net"): the backbone is shared, and every part has a head of two 1x1 convolutions.

    A part without spatial axes is read off the mean over the pixels; one at another resolution than the feature map's
    off its means over areas. The heads also see the task code, at every pixel: the descriptor z where there is one,
    beside what is inferred from the support, r = mean_i mean_pixels e(features(x_i), y_i), as in the conditional
    neural process (Garnelo et al. 2018, equations 1 and 2). An empty support has r = 0.

    Deviations: labels enter e as maps of the feature map's size, classes as one-hot maps, with further ones
    that say where the label is known; so a missing label differs from one that is zero.

    Args:
        spec: the tasks.
        n_params: natural parameters per query point.
        backbone: maps inputs to features; by default UNet for images, an MLP for vectors, whose features are a map of
            one pixel. One without a feature map is such a one, too.
        width: units of the heads and of r.

    Raises:
        ValueError: where a part has other than no or two spatial axes, or `n_params` is not what the parts need.
    """

    targets = ("parts",)

    def __init__(self, spec: TaskSpec, n_params: int, *, backbone: MakeBackbone | None = None, width: int = 32) -> None:
        super().__init__(spec, n_params)
        wrong = [part.name for part in spec.parts if len(part.spatial) not in (0, 2)]
        needed = sum(_maps(part) * _area(part)[0] * _area(part)[1] for part in spec.parts if part.name not in wrong)
        if wrong or needed != n_params:
            raise ValueError(
                f"expected parts of no or two spatial axes, and n_params of their sizes, {needed}, got {n_params} and "
                f"other axes in {wrong or 'none'}; use likelihood_for(spec).n_params"
            )
        # The descriptor meets the features at every pixel, below, and not as one long vector.
        self.embed = Embedding(replace(spec, descriptor_size=0), backbone or (UNet if len(spec.x_shape) == 3 else MLP))
        self.map_shape = self.embed.backbone.map_shape or (self.embed.out_features, 1, 1)
        features = self.map_shape[0]
        labels = sum(part.size + (1 if part.target == "class" else part.size) for part in spec.parts)
        self.encoder = _pixelwise(features + labels, width, width)
        code = width + spec.descriptor_size
        self.heads = nn.ModuleList(_pixelwise(features + code, width, _maps(part)) for part in spec.parts)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `code [T, Z]`, and what the embedding knows of the task."""
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
        for part, head in zip(self.spec.parts, self.heads, strict=True):
            area = _resized(h, _area(part))
            params.append(head(torch.cat([area, code.expand(-1, -1, *area.shape[2:])], dim=1)).flatten(1))
        return torch.cat(params, dim=1).view(*x.shape[:2], self.n_params)

    def _label_maps(self, y: Tensor) -> Tensor:
        """Targets `[T, N, K]` to `[T N, maps, height, width]` of the feature map's size."""
        maps = []
        for part in self.spec.parts:
            values = split_parts(self.spec.parts, y)[part.name].flatten(0, 1)
            values = values.reshape(len(values), 1 if part.target == "class" else part.size, *_area(part))
            known = ~values.isnan()
            values = values.masked_fill(~known, 0)
            if part.target == "class":
                values = F.one_hot(values[:, 0].long(), part.size).movedim(-1, 1) * known
            maps += [_resized(values.float(), self.map_shape[1:]), _resized(known.float(), self.map_shape[1:])]
        return torch.cat(maps, dim=1)


def _area(part: Part) -> tuple[int, int]:
    """The pixels of a part's map; a part without spatial axes has one."""
    height, width = part.spatial or (1, 1)
    return height, width


def _maps(part: Part) -> int:
    """Natural parameters of a part at one pixel."""
    return 2 * part.size if part.target == "real" else part.size


def _pixelwise(inputs: int, width: int, outputs: int) -> nn.Module:
    """A perceptron with one hidden layer for every pixel by itself."""
    return nn.Sequential(nn.Conv2d(inputs, width, 1), nn.GELU(), nn.Conv2d(width, outputs, 1))


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Means over areas, or repetitions of what is there: `[B, maps, *size]`."""
    if maps.shape[2:] == size:
        return maps
    if size == (1, 1):
        return maps.mean((2, 3), keepdim=True)
    return F.adaptive_avg_pool2d(maps, size)
