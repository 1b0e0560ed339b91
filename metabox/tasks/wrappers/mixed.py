"""New classes from old ones, by mixing images of two classes of a task."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from metabox.episodes import Episodes, Examples
from metabox.ranges import Share
from metabox.targets import TaskSpec
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.base import Wrapper

UNIT = 256  # mixing is in whole numbers, the same on every device


class MixedClasses(Wrapper):
    """The tasks of another sampler; in training, some have every class mixed with another class of the task.

    This augments tasks, not images: it makes new classes (for its effect see Ni et al. 2021, "Data augmentation for
    meta-learning"). The images of class c and of class c + s are mixed, in the same way in support and query, and keep
    the label c, since the result is a new class. In "cutmix" (Yun et al. 2019) a rectangle of one image is replaced by
    that of the other, in "mixup" (Zhang et al. 2018) the pixels are weighted means. The share of class c is uniform in
    [0.5, 1]. An image's partner is in the same part of the task, so that support and query still share no image.

    Args:
        tasks: a sampler of images in classes.
        how: "cutmix" or "mixup".
        p: the share of training tasks that are mixed.
    """

    def __init__(self, tasks: EpisodeSampler, how: Literal["cutmix", "mixup"] = "cutmix", p: Share = 0.5) -> None:
        super().__init__(tasks)
        self.how, self.p = how, p

    @property
    def spec(self) -> TaskSpec:  # type: ignore[override]  # the inner sampler opens its data at the first use
        spec = self.tasks.spec
        if spec.target.n_classes is None or len(spec.x_shape) != 3:
            raise ValueError(f"expected tasks of images in classes to mix, got {spec}")
        return spec

    def change(self, episodes: Episodes, place: Place) -> Episodes:
        if place.split != "train":
            return episodes
        device = episodes.support.x.device
        n_classes, (_, height, width) = self.spec.target.size, self.spec.x_shape
        draws = place.draws("mixed classes")
        way = np.full(place.n_tasks, n_classes)
        if episodes.classes is not None:
            way = episodes.classes.sum(1).cpu().numpy()
        step = draws.integers("step", 1, np.maximum(way - 1, 1))
        partner = (np.arange(n_classes) + step[:, None]) % way[:, None]
        share = draws.uniform("share", 0.5, 1.0, n_classes)
        share[draws.uniform("mixed", 0.0, 1.0) >= self.p] = 1.0
        if self.how == "mixup":
            keep = np.broadcast_to(share[..., None, None], (*share.shape, height, width))
        else:
            keep = _boxes(1 - share, draws.uniform("place", 0.0, 1.0, n_classes, 2), height, width)
        weights = torch.from_numpy((keep * UNIT).round().astype(np.int32)).to(device)
        partners = torch.from_numpy(partner).to(device)
        return replace(
            episodes,
            support=_mixed(episodes.support, partners, weights),
            query=_mixed(episodes.query, partners, weights),
        )


def _boxes(area: np.ndarray, place: np.ndarray, height: int, width: int) -> np.ndarray:
    """1 outside a rectangle of this share of the image and 0 inside: `[T, C], [T, C, 2] -> [T, C, height, width]`."""
    side = np.sqrt(area)

    def inside(n: int, at: np.ndarray) -> np.ndarray:
        length = np.rint(side * n)
        start = np.floor(at * (n - length + 1))
        covered: np.ndarray = (np.arange(n) >= start[..., None]) & (np.arange(n) < (start + length)[..., None])
        return covered

    rows, columns = inside(height, place[..., 0]), inside(width, place[..., 1])
    outside: np.ndarray = 1.0 - (rows[..., None] & columns[..., None, :])
    return outside


def _mixed(examples: Examples, partners: Tensor, weights: Tensor) -> Examples:
    """Each image mixed with the one of the same rank (modulo the size) in the partner of its class.

    partners: `[T, C]`, weights of the image itself: `[T, C, height, width]`, in units of 1 / UNIT.
    """
    t, n = examples.mask.shape
    n_classes = partners.shape[1]
    if n == 0:
        return examples
    member = (examples.y[..., None] == torch.arange(n_classes, device=examples.y.device)) & examples.mask[..., None]
    count = member.sum(1)
    rank = (member.cumsum(1) - 1).gather(2, examples.y[..., None])[..., 0]
    # The position of the image of each rank in each class; masked ones go to an extra column.
    column = torch.where(examples.mask, examples.y * n + rank, n_classes * n)
    where = torch.zeros(t, n_classes * n + 1, dtype=torch.int64, device=column.device)
    where.scatter_(1, column, torch.arange(n, device=column.device).expand(t, n))
    other = partners.gather(1, examples.y)
    size = count.gather(1, other)
    partner = where.gather(1, other * n + rank.clamp(min=0) % size.clamp(min=1))
    task = torch.arange(t, device=column.device)[:, None]
    weight = weights[task, examples.y]
    weight = torch.where((size > 0)[..., None, None] & examples.mask[..., None, None], weight, UNIT)[:, :, None]
    x = (weight * examples.x + (UNIT - weight) * examples.x[task, partner] + UNIT // 2) // UNIT
    return replace(examples, x=x.to(torch.uint8))
