"""Small random views of images, over which a prediction is averaged."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.data.augment import RandomAffine

CHANGE = RandomAffine(rotation=3.0, scale=0.04, shear=0.03, shift=0.03)
BORDER = 0.15
"""Of the size: repeated on all sides first, so that no view shows what is outside."""


def views(images: Tensor, n: int, *, each: bool) -> Tensor:
    """The images and n - 1 changed copies: uint8 `[N, channels, height, width]` -> `[n, N, ...]`, the same every time.

    Args:
        images: of one task.
        n: how many views.
        each: whether every image is changed in a way of its own, as is best for a support. Otherwise the images of a
            view are changed alike, so that what an image becomes does not depend on the others.
    """
    if not len(images):
        return images.expand(n, *images.shape)
    seed = torch.Generator().manual_seed(0 if each else 1)
    pads = [round(BORDER * side) for side in (images.shape[3], images.shape[2])]
    padded = F.pad(images.float(), (pads[0], pads[0], pads[1], pads[1]), mode="replicate")
    made = [images]
    for _ in range(n - 1):
        draws = torch.rand(len(images) if each else 1, CHANGE.n_draws, generator=seed)
        changed = CHANGE(padded, draws.expand(len(images), -1).to(images.device))
        made.append(changed[..., pads[1] : pads[1] + images.shape[2], pads[0] : pads[0] + images.shape[3]])
    return torch.stack(made)
