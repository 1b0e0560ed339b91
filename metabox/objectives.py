"""Objectives: what the outer loop minimises. Episodes in, one loss per task out."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from metabox.episodes import Episodes, Examples
from metabox.learners.base import Learner
from metabox.likelihoods import Likelihood, task_mean


class Objective(nn.Module, ABC):
    """A learner and a likelihood as the one module that is compiled, distributed and cast.

    `forward` returns `{"loss": [T], score: [T], ...}`, the scores detached.
    """

    def __init__(self, learner: Learner, likelihood: Likelihood) -> None:
        super().__init__()
        self.learner = learner
        self.likelihood = likelihood

    @abstractmethod
    def predictions(self, episodes: Episodes) -> tuple[Tensor, Examples]:
        """Natural parameters `[T, M, P]` and the examples that they are judged on."""

    def forward(self, episodes: Episodes) -> dict[str, Tensor]:
        episodes = episodes.blanked()
        params, examples = self.predictions(episodes)
        # Losses stay in float32 whatever the surrounding precision: bf16 keeps 3 digits of a log likelihood.
        with torch.autocast(params.device.type, enabled=False):
            log_prob = self.likelihood.log_prob(params, examples.y, episodes.class_mask)
            scores = self.likelihood.scores(params.detach(), examples.y, episodes.class_mask)
            means = {name: task_mean(score, examples.mask) for name, score in scores.items()}
            return {"loss": task_mean(-log_prob, examples.mask), **means}


class QueryLoss(Objective):
    """The mean negative log likelihood of D_i^test given D_i^tr: the episodic objective of Vinyals et al. 2016."""

    def predictions(self, episodes: Episodes) -> tuple[Tensor, Examples]:
        phi = self.learner.adapt(episodes.support, episodes.descriptor)
        return self.learner.predict(phi, episodes.query.x), episodes.query


class StreamLoss(Objective):
    """The loss at every step of the sequence D_i^tr, D_i^test: step t is predicted from the t examples before it.

    The objective of the recurrent and memory learners (Hochreiter et al. 2001, Santoro et al. 2016).
    """

    def predictions(self, episodes: Episodes) -> tuple[Tensor, Examples]:
        s, q = episodes.support, episodes.query
        whole = Examples(x=torch.cat([s.x, q.x], 1), y=torch.cat([s.y, q.y], 1), mask=torch.cat([s.mask, q.mask], 1))
        return self.learner.stream(whole, episodes.descriptor), whole
