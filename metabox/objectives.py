"""Objectives: what the outer loop minimises. Episodes in, one loss per task out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.config import Configured
from metabox.episodes import Episodes, Examples
from metabox.learners.base import Learner, Phi
from metabox.nn.sets import one_hot
from metabox.ranges import Count
from metabox.targets import Target
from metabox.targets.base import score_mean, task_mean
from metabox.targets.parts import Part


class Objective(nn.Module, Configured, ABC):
    """A learner and its target as the one module that is compiled, distributed and cast.

    `forward` returns `{"loss": [T], score: [T], ...}`, the scores detached. If targets have named parts, it also
    returns `loss_NAME [T]` of each part, with gradients, for loss weighting (in evaluation NaN for a task without a
    label of it), and `labels_NAME [T]`, how many examples of the task have one; a learner's penalty is in `loss`, and
    for parts also under its name, `penalty [T]`.

    Losses are in standard units (see `Target.loss`), so that no weighting depends on the units of y; `nll` is in the
    user's. In training the loss of parts does not depend on how rows are cut into tasks, unless these have names: the
    mean of `loss` is the sum over parts of weight_j times the mean over all examples of the batch with a label of part
    j. In evaluation `loss` is each task's own.
    """

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    @property
    def target(self) -> Target:
        """The learner's target, which computes the log likelihood."""
        return self.learner.spec.target

    def target_of(self, episodes: Episodes) -> Target:
        """The target of these tasks, each row by its named task."""
        return self.target.for_tasks(episodes.task, self.learner.spec.tasks)

    @abstractmethod
    def predictions(self, episodes: Episodes) -> tuple[Tensor, Examples]:
        """Natural parameters `[T, M, P]` and the examples that they are scored on."""

    def losses(self, params: Tensor, examples: Examples, episodes: Episodes) -> tuple[Tensor, dict[str, Tensor]]:
        """L_i `[T]` of these predictions, and that of each named part: here the mean of the target's `loss`."""
        return self.target_of(episodes).losses(params, examples.y, examples.mask)

    def errors(self, params: Tensor, examples: Examples, episodes: Episodes) -> tuple[Tensor, dict[str, Tensor]]:
        """The same at scale 1, which the cosines between tasks are read on: here the mean of the target's `error`."""
        return self.target_of(episodes).losses(params, examples.y, examples.mask, "error")

    def nll(self, episodes: Episodes, params: Tensor, examples: Examples) -> Tensor:
        """The negative log likelihood `[T]` that evaluation reports for `predictions`, in nats per example."""
        return self.target_of(episodes).nll(params, examples.y, examples.mask)

    def at_scale_one(self, episodes: Episodes) -> dict[str, Tensor]:
        """What `forward` returns of the losses alone, without a penalty, and as `errors`."""
        episodes = episodes.blanked()
        params, examples = self.predictions(episodes)
        with torch.autocast(params.device.type, enabled=False):
            loss, by_part = self.errors(params, examples, episodes)
            counts = self.target.counts(examples.y, examples.mask)
        return {"loss": loss, **_named(by_part, counts)}

    def forward(self, episodes: Episodes) -> dict[str, Tensor]:
        episodes = episodes.blanked()
        params, examples = self.predictions(episodes)
        # Losses stay in float32 whatever the precision: bf16 keeps 3 digits of a log likelihood.
        with torch.autocast(params.device.type, enabled=False):
            loss, by_part = self.losses(params, examples, episodes)
            scores = self.target_of(episodes).scores(params.detach(), examples.y)
            means = {name: score_mean(score, examples.mask) for name, score in scores.items()}
            counts = self.target.counts(examples.y, examples.mask)
            if self.training and not self.learner.spec.tasks and counts:
                loss = _over_the_batch(self.target.parts, by_part, counts)
            means |= _named(by_part, counts)
            if not self.training:  # in training the weightings read it together with the number of labels
                means |= {f"loss_{name}": by_part[name].masked_fill(counts[name] == 0, math.nan) for name in counts}
            penalty = self.learner.penalty()
            if penalty is None:
                return {"loss": loss, **means}
            named = {"penalty": penalty.expand_as(loss)} if by_part else {}
            return {"loss": loss + penalty, **means, **named}


class QueryLoss(Objective):
    """The mean loss of D_i^test given D_i^tr, by default -log p: the episodic objective of Vinyals et al. 2016.

    Args:
        learner: any learner.
        predict_support: in training count D_i^tr among the targets, as the code of conditional neural processes does.
    """

    def __init__(self, learner: Learner, predict_support: bool = False) -> None:
        super().__init__(learner)
        self.predict_support = predict_support

    def predictions(self, episodes: Episodes) -> tuple[Tensor, Examples]:
        phi = self.learner.adapt(episodes.support, episodes.descriptor, episodes.label_set(self.learner.spec))
        targets = _whole(episodes) if self.predict_support and self.learner.training else episodes.query
        return self.learner.predict(phi, targets.x), targets


class SquaredLoss(QueryLoss):
    """The mean squared error of sigmoid scores to 1 for a query's class and 0 for the others of its task.

    What relation networks are trained on (Sung et al. 2018, equation 2), as a mean over queries and classes. The
    prediction is still the softmax of the scores, so that the likelihoods in results are not those of this training.

    Raises:
        ValueError: if the targets are not classes.
    """

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner)
        if self.target.n_classes is None:
            raise ValueError(f"expected a learner of classes for SquaredLoss, got {self.target!r}; use QueryLoss")

    def losses(self, params: Tensor, examples: Examples, episodes: Episodes) -> tuple[Tensor, dict[str, Tensor]]:
        classes = cast(Tensor, episodes.label_set(self.learner.spec))[:, None]  # [T, 1, up to C]
        inside = F.pad(classes, (0, params.shape[-1] - classes.shape[-1])).to(torch.float32)
        error = (params.float().sigmoid() - one_hot(examples.y, params.shape[-1]).float()).square()
        return task_mean((error * inside).sum(-1) / inside.sum(-1), examples.mask), {}

    errors = losses


class StreamLoss(Objective):
    """The loss at every step of the sequence D_i^tr, D_i^test: step t is predicted from the t examples before it.

    The objective of the recurrent and memory learners (Hochreiter et al. 2001, Santoro et al. 2016).

    Args:
        learner: any learner.
        summed: in training the loss is the sum over steps instead of their mean, as in some public code of MANN. For an
            optimizer whose step does not depend on the scale of the gradient, such as Adam, this changes only how often
            its norm reaches `clip`, and what `epsilon` is beside it.
    """

    def __init__(self, learner: Learner, summed: bool = False) -> None:
        super().__init__(learner)
        self.summed = summed

    def losses(self, params: Tensor, examples: Examples, episodes: Episodes) -> tuple[Tensor, dict[str, Tensor]]:
        loss, by_part = super().losses(params, examples, episodes)
        if self.summed and self.training:
            steps = examples.mask.sum(1)
            loss, by_part = loss * steps, {name: part * steps for name, part in by_part.items()}
        return loss, by_part

    def predictions(self, episodes: Episodes) -> tuple[Tensor, Examples]:
        whole = _whole(episodes)
        return self.learner.stream(whole, episodes.descriptor, episodes.label_set(self.learner.spec)), whole


@runtime_checkable
class JointLearner(Protocol):
    """A learner that also predicts the queries of a task together, each given the labels of those before it."""

    def joint(self, phi: Phi, query: Examples) -> Tensor:
        """Parameters `[T, M, P]` of p(y_m | x_m, support, query[:m])."""


class JointLoss(Objective):
    """The joint negative log likelihood of D_i^test given D_i^tr, divided by the number of queries.

    By the chain rule this is the mean over m of -log p(y_m | x_m, D_tr, query[:m]): the objective of TNP-A (Nguyen &
    Grover 2022, equation 4). Scores are those of the same predictions, in an evaluation with this objective too: later
    queries are easier than if each were predicted by itself.

    Raises:
        ValueError: if the learner has no method `joint`.
    """

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner)
        if not isinstance(learner, JointLearner):
            raise ValueError(
                f"expected a learner with a method joint(phi, query), such as TNPA, got {type(learner).__name__}, "
                "which predicts every query independently; use QueryLoss"
            )

    def predictions(self, episodes: Episodes) -> tuple[Tensor, Examples]:
        phi = self.learner.adapt(episodes.support, episodes.descriptor, episodes.label_set(self.learner.spec))
        return cast(JointLearner, self.learner).joint(phi, episodes.query), episodes.query


@runtime_checkable
class LatentLearner(Protocol):
    """A learner with a latent z; its phi holds `z_mean` and `z_scale [T, Z]`, those of q(z | support)."""

    def encode(self, examples: Examples, descriptor: Tensor | None, phi: Phi) -> tuple[Tensor, Tensor]:
        """q(z | examples), a diagonal normal: mean and scale, each `[T, Z]`; numbers are on the scale of phi."""

    def decode(self, phi: Phi, x: Tensor, z: Tensor) -> Tensor:
        """Natural parameters given z: x `[T, M, *x_shape]`, z `[T, S, Z]` -> `[T, S, M, P]`."""

    def samples(self, phi: Phi) -> Tensor:
        """The samples of z `[T, S, Z]` that a prediction mixes."""


class LatentLoss(QueryLoss):
    """The bound on the log likelihood that neural processes are trained with (Garnelo et al. 2018b, equation 9).

    `loss = (KL(q(z | C, T) || q(z | C)) - E_{q(z | C, T)} log p(y_T | x_T, C, z)) / |T|` for C = D_i^tr, T = D_i^test,
    in nats per query like the other losses; the score `kl` is the first term, divided likewise. The targets are
    D_i^test alone, as in that equation. In Kim et al. 2019 (equation 3, and the authors' published notebook) they
    include the contexts: with `predict_support` the expectation is also over D_i^tr, and `|T|` counts both.

    `predictions`, and so evaluation, are those of `predict`, for which z comes from q(z | C). The other scores are
    those of the predictions at the mean of q(z | C): a z that has seen the query labels would inflate them.

    With `weighted` the loss is the importance-weighted bound, `-log mean_s [p(y_T | x_T, C, z_s) q(z_s | C) /
    q(z_s | C, T)] / |T|` for samples z_s of q(z | C, T), as in the code of Nguyen & Grover 2022, which has four samples
    and counts the contexts too. With `scored_by: samples` the negative log likelihood of an evaluation is their code's,
    `-log mean_s p(y_m | x_m, C, z_s)` for each query, over the samples of z that the learner mixes, instead of that of
    the mixture's one distribution.

    Args:
        learner: with a latent path, such as NP or ANP.
        n_samples: samples of z that estimate the expectation.
        predict_support: count D_i^tr among the targets.
        weighted: train by the importance-weighted bound.
        scored_by: what an evaluation's `nll` is of: the learner's prediction, or the mixture over samples of z.

    Raises:
        ValueError: if the learner has no latent path.
    """

    def __init__(
        self,
        learner: Learner,
        n_samples: Count = 1,
        predict_support: bool = False,
        weighted: bool = False,
        scored_by: Literal["prediction", "samples"] = "prediction",
    ) -> None:
        super().__init__(learner, predict_support)
        if not isinstance(learner, LatentLearner):
            raise ValueError(
                f"expected a learner with a latent path, such as NP or ANP, got {type(learner).__name__}, "
                "which has no methods encode and decode; use QueryLoss"
            )
        self.n_samples = n_samples
        self.weighted = weighted
        self.scored_by = scored_by

    def nll(self, episodes: Episodes, params: Tensor, examples: Examples) -> Tensor:
        if self.scored_by == "prediction":
            return super().nll(episodes, params, examples)
        learner = cast(LatentLearner, self.learner)
        phi = self.learner.adapt(episodes.support, episodes.descriptor, episodes.label_set(self.learner.spec))
        params = learner.decode(phi, examples.x, learner.samples(phi))
        log_prob = self._each(self.target.log_prob, params, examples.y)
        return task_mean(math.log(log_prob.shape[1]) - log_prob.logsumexp(1), examples.mask)

    def _each(self, log_prob: Callable[[Tensor, Tensor], Tensor], params: Tensor, y: Tensor) -> Tensor:
        """log p(y | x, C, z) `[T, S, M]` of parameters `[T, S, M, P]`."""
        n = params.shape[1]
        each = log_prob(params.flatten(0, 1), y.repeat_interleave(n, dim=0))
        return each.reshape(-1, n, each.shape[-1])

    def _standard_log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        """log p in standard units, as in the losses of other objectives."""
        return self.target.log_prob(*self.target.standard(params, y))

    def forward(self, episodes: Episodes) -> dict[str, Tensor]:
        episodes = episodes.blanked()
        whole, n = _whole(episodes), self.n_samples
        targets = whole if self.predict_support else episodes.query
        learner = cast(LatentLearner, self.learner)
        phi = self.learner.adapt(episodes.support, episodes.descriptor, episodes.label_set(self.learner.spec))
        prior = phi["z_mean"], phi["z_scale"]
        posterior = learner.encode(whole, episodes.descriptor, phi)
        mean, scale = (part[:, None].expand(-1, n, -1) for part in posterior)
        z = torch.cat([mean + scale * torch.randn_like(scale), prior[0][:, None]], dim=1)
        params = learner.decode(phi, targets.x, z)
        with torch.autocast(params.device.type, enabled=False):
            log_prob = self._each(self._standard_log_prob, params[:, :-1], targets.y)  # [T, S, M]
            count = targets.mask.sum(1).clamp(min=1)
            kl = normal_kl(*posterior, *prior) / count
            if self.weighted:
                together = torch.where(targets.mask[:, None], log_prob, 0.0).sum(-1)
                weight = normal_log_prob(z[:, :-1], *prior) - normal_log_prob(z[:, :-1], *posterior)
                loss = (math.log(n) - (together + weight).logsumexp(1)) / count
            else:
                loss = task_mean(-log_prob.mean(1), targets.mask) + kl
            scores = self.target.scores(params[:, -1].detach(), targets.y)
            means = {name: score_mean(score, targets.mask) for name, score in scores.items()}
            return {"loss": loss, "kl": kl.detach(), **means}


def _named(by_part: dict[str, Tensor], counts: dict[str, Tensor]) -> dict[str, Tensor]:
    losses = {f"loss_{name}": value for name, value in by_part.items()}
    return losses | {f"labels_{name}": count for name, count in counts.items()}


def normal_log_prob(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """log N(z; mean, scale) of independent components: samples `[T, S, Z]`, mean and scale `[T, Z]` -> `[T, S]`."""
    mean, scale = mean[:, None].float(), scale[:, None].float()
    density = ((z.float() - mean) / scale).square() / 2 + scale.log() + math.log(2 * math.pi) / 2
    return -density.sum(-1)


def normal_kl(mean: Tensor, scale: Tensor, other_mean: Tensor, other_scale: Tensor) -> Tensor:
    """KL(N(mean, scale) || N(other_mean, other_scale)) in nats, independent components `[T, Z]` summed -> `[T]`."""
    ratio = (scale.float() / other_scale.float()).square()
    distance = ((mean.float() - other_mean.float()) / other_scale.float()).square()
    return 0.5 * (ratio + distance - 1 - ratio.log()).sum(-1)


def _over_the_batch(parts: Sequence[Part], losses: dict[str, Tensor], counts: dict[str, Tensor]) -> Tensor:
    """Losses `[T]` whose mean is sum_j w_j L_j, with L_j the mean over all labels of part j in the batch."""
    scaled = []
    for part in parts:
        count = counts[part.name]
        scaled.append(part.weight * losses[part.name] * count * len(count) / count.sum().clamp(min=1))
    return torch.stack(scaled).sum(0)


def _whole(episodes: Episodes) -> Examples:
    """Support, then query."""
    s, q = episodes.support, episodes.query
    return Examples(x=torch.cat([s.x, q.x], 1), y=torch.cat([s.y, q.y], 1), mask=torch.cat([s.mask, q.mask], 1))
