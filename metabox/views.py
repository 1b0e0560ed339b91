"""Evaluation on several views of each image."""

from __future__ import annotations

import torch
from torch import Tensor

from metabox.data.views import views
from metabox.episodes import Episodes, Examples
from metabox.learners.base import Learner
from metabox.objectives import QueryLoss
from metabox.ranges import Count


class Views(QueryLoss):
    """`QueryLoss` of answers that are averaged over the image and small random changes of it; for evaluation.

    Each view adapts to a changed support and answers changed queries, and the probabilities are averaged (see
    `Target.mixture`). No query sees another. It costs as much as K evaluations, and predicts what a `Model` does with
    `views=K`.

    Args:
        learner: of images.
        n_views: K; one is `QueryLoss`.

    Raises:
        ValueError: if the learner takes no images.
    """

    def __init__(self, learner: Learner, n_views: Count = 9) -> None:
        super().__init__(learner)
        if len(learner.spec.x_shape) != 3:
            raise ValueError(f"expected a learner of images for Views, got one of {list(learner.spec.x_shape)}")
        self.n_views = n_views

    def predictions(self, episodes: Episodes) -> tuple[Tensor, Examples]:
        support, n = episodes.support, self.n_views
        seen = Examples(x=self._seen(support.x, each=True), y=_each(support.y, n), mask=_each(support.mask, n))
        label_set = episodes.label_set(self.learner.spec)
        z, classes = (part if part is None else _each(part, n) for part in (episodes.descriptor, label_set))
        phi = self.learner.adapt(seen, z, classes)
        params = self.learner.predict(phi, self._seen(episodes.query.x, each=False))
        return (params if n == 1 else self.target.mixture(params.unflatten(0, (-1, n)))), episodes.query

    def _seen(self, x: Tensor, *, each: bool) -> Tensor:
        """`[T, N, channels, height, width]` -> `[T * K, N, ...]`."""
        if x.dtype != torch.uint8:
            raise ValueError(f"expected uint8 images for Views, got {x.dtype}")
        return torch.cat([views(task, self.n_views, each=each) for task in x])


def _each(x: Tensor, n: int) -> Tensor:
    """A copy for each view: `[T, ...]` -> `[T * K, ...]`."""
    return x.repeat_interleave(n, dim=0)
