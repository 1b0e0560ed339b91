"""Weights of the losses: fixed, from learned noise, gradients or pace, random, or of the worst case."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from metabox.nn.sets import one_hot
from metabox.ranges import Count, NotNegative, Positive, TwoOrMore, Within
from metabox.targets import TaskSpec
from metabox.training.weighting import Backward, Weighting

FLOOR = 1e-3  # of the weights and losses in GradNorm


class Weights(Weighting):
    """The gradient of `sum_k w_k s_k L_k`; a subclass says what w is."""

    @abstractmethod
    def weights(self, losses: Tensor, share: Tensor) -> Tensor:
        """w `[K]` for losses `[K]` (without gradients) and shares `[K]`; called once a batch."""

    def total(self, losses: Tensor, share: Tensor) -> Tensor:
        return (self.weights(losses.detach(), share) * share * losses).sum()

    def backward(self, losses: Tensor, share: Tensor, shared: Sequence[nn.Parameter], backward: Backward) -> None:
        self.check(losses, share)
        backward(self.total(torch.where(share > 0, losses, 0), share))


class Fixed(Weights):
    """Weights that stay fixed; all 1 is the plain sum, the mandatory baseline.

    Args:
        n_losses: K.
        weights: w, K numbers of at least 0; all 1 by default.
    """

    def __init__(self, n_losses: TwoOrMore, weights: Sequence[NotNegative] | None = None) -> None:
        super().__init__(n_losses)
        chosen = [1.0] * n_losses if weights is None else [float(weight) for weight in weights]
        if len(chosen) != n_losses:
            raise ValueError(f"expected {n_losses} weights, got {len(chosen)}; one for each task or part")
        self.register_buffer("chosen", torch.tensor(chosen))

    def weights(self, losses: Tensor, share: Tensor) -> Tensor:
        return self.get_buffer("chosen")


class Uncertainty(Weights):
    """Weights from a learned noise of each task (Kendall, Gal & Cipolla 2018, equations 5 to 10).

    The total is `sum_k s_k (exp(-v_k) L_k + c_k v_k)` with v = log sigma^2, a parameter that starts at 0, and c = 1/2:
    equation (7), where `L = |y - f|^2 / 2`, and equation (10). For absolute errors `L = |y - f|` the density is
    Laplace's, of scale b = exp(v), and c = 1 (`Target.log_term`).

    It learns the scale of each task, so targets must not learn one too: `Reals(1, noise=1)`.

    Deviations:
        v is clamped between -LIMIT and LIMIT: without an error left, v would fall without bound.

    Raises:
        ValueError: in `fit`, for real targets that learn a scale.
    """

    LIMIT = 5.0

    def __init__(self, n_losses: TwoOrMore) -> None:
        super().__init__(n_losses)
        self.log_variance = nn.Parameter(torch.zeros(n_losses))
        self.register_buffer("log_term", torch.full([n_losses], 0.5), persistent=False)

    def fit(self, spec: TaskSpec) -> None:
        targets = [part.target for part in spec.target.parts] or [spec.target]
        if spec.tasks and not spec.target.parts:
            targets = [spec.target.of_task(name) for name in spec.tasks]
        for target in targets:
            if target.learned_scale:
                raise ValueError(
                    f"expected targets of a fixed scale with Uncertainty, which learns one for each loss, got "
                    f"{target!r}, which learns its own; use Reals(..., noise=1), whose loss is half the squared error "
                    "in standard units, or another weighting"
                )
        if spec.tasks and spec.target.parts:
            targets = [spec.target] * self.n_losses
        self.get_buffer("log_term").copy_(torch.tensor([target.log_term for target in targets]))

    def weights(self, losses: Tensor, share: Tensor) -> Tensor:
        with torch.no_grad():
            self.log_variance.clamp_(-self.LIMIT, self.LIMIT)
        return (-self.log_variance).exp()

    def total(self, losses: Tensor, share: Tensor) -> Tensor:
        return super().total(losses, share) + (share * self.get_buffer("log_term") * self.log_variance).sum()


class GradNorm(Weights):
    """Weights that bring the norms of the tasks' gradients to one scale (Chen et al. 2018, algorithm 1).

    With `G_k = |grad_W w_k L_k|` and r_k the loss relative to its first value, divided by the mean of this ratio over
    tasks, w takes a gradient step on `sum_k |G_k - mean(G) r_k^alpha|` (equation 2), the targets held constant, and is
    scaled so that its sum over the tasks of the batch stays (K for all). Tasks without rows in the batch, or parts
    without labels in it, keep their weight and are left out of the means; which those are is read in every batch, so a
    step waits for the device.

    Deviations:
        The step is plain gradient descent on equation (2) divided by mean(G), which makes it independent of the scale
        of the losses; the paper uses Adam ("insensitive to the optimizer chosen"). Weights (before scaling) and losses
        are clamped to at least FLOOR: losses in the paper are never negative.
        What is balanced is G_k, not the norm of what the outer loop steps on, `s_k G_k`: a task's share of the rows or
        a part's weight still scales its gradient afterwards, as it would without a weighting. The paper's tasks share
        all rows and have no weights of their own, so that both are the same there up to a common factor.

    Args:
        n_losses: K.
        alpha: how much a task that learns slowly is favoured; in the paper 1.5 on NYUv2, 0.12 for symmetric tasks.
        step: learning rate of w.
        layer: W: the "last" shared layer (the last parameter of two axes or more), or "all" shared parameters.
    """

    def __init__(
        self,
        n_losses: TwoOrMore,
        alpha: NotNegative = 1.5,
        step: Positive = 0.025,
        layer: Literal["last", "all"] = "last",
    ) -> None:
        super().__init__(n_losses)
        self.alpha, self.step, self.layer = alpha, step, layer
        self.register_buffer("w", torch.ones(n_losses))
        self.register_buffer("first", torch.full([n_losses], math.nan))

    def weights(self, losses: Tensor, share: Tensor) -> Tensor:
        return self.get_buffer("w")

    def backward(self, losses: Tensor, share: Tensor, shared: Sequence[nn.Parameter], backward: Backward) -> None:
        self.check(losses, share)
        layer = check_shared(shared) if self.layer == "all" else [[*check_shared(shared), *_matrices(shared)][-1]]
        present = (share > 0).tolist()
        norms = [
            _norm(loss, layer) if here else losses.new_zeros([]) for loss, here in zip(losses, present, strict=True)
        ]
        super().backward(losses, share, shared, backward)
        self.update(losses.detach(), share > 0, torch.stack(norms))

    @torch.no_grad()
    def update(self, losses: Tensor, present: Tensor, norms: Tensor) -> None:
        """Make the step of w, from the norms `[K]` of the gradients of L_k."""
        w, first = self.get_buffer("w"), self.get_buffer("first")
        losses = losses.clamp(min=FLOOR)
        first.copy_(torch.where(present & first.isnan(), losses, first))
        ratio = losses / first
        rate = ratio / ratio[present].mean()  # r_k
        scale = (w * norms)[present].mean()
        above = (w * norms - scale * rate**self.alpha).sign()
        slope = torch.where(present & (scale > 0), above * norms / scale, 0)
        moved = torch.where(present, (w - self.step * slope).clamp(min=FLOOR), 0)
        w.copy_(torch.where(present, moved * w[present].sum() / moved.sum(), w))


class DWA(Weights):
    """Dynamic weight average: a task whose loss falls slowly weighs more (Liu, Johns & Davison 2019, equation 7).

    `w_k = K softmax_k(L_k(t - 1) / L_k(t - 2) / temperature)`, L_k(t) the mean loss of period t; 1 in the first two.

    Deviations:
        An outer loop over endless tasks has no epochs: a period is a number of batches. The ratio is 1 unless the
        losses of both periods are positive.

    Args:
        n_losses: K.
        temperature: large values make the weights even.
        period: number of batches.
    """

    def __init__(self, n_losses: TwoOrMore, temperature: Positive = 2.0, period: Count = 100) -> None:
        super().__init__(n_losses)
        self.temperature, self.period = temperature, period
        self.register_buffer("means", torch.full([2, n_losses], math.nan))  # of the last period, of the one before
        self.register_buffer("sums", torch.zeros(2, n_losses))  # of this period: losses, batches with the task
        self.register_buffer("batches", torch.tensor(0))

    def weights(self, losses: Tensor, share: Tensor) -> Tensor:
        means, sums, batches = (self.get_buffer(name) for name in ("means", "sums", "batches"))
        ratio = torch.where((means > 0).all(0), means[0] / means[1], 1)
        sums += torch.stack([losses, torch.ones_like(losses)]) * (share > 0)
        batches += 1
        ends = batches % self.period == 0
        means.copy_(torch.where(ends, torch.stack([sums[0] / sums[1], means[0]]), means))
        sums.copy_(torch.where(ends, 0, sums))
        return self.n_losses * (ratio / self.temperature).softmax(0)


class Random(Weights):
    """Random loss weighting: `w = K softmax(normal)`, drawn for every batch (Lin et al. 2022).

    A method that adapts its weights should beat it.

    Deviations:
        The factor K keeps the scale of the plain sum, whose weights are 1; in the paper the weights add up to 1.
    """

    def weights(self, losses: Tensor, share: Tensor) -> Tensor:
        return self.n_losses * torch.randn(self.n_losses).softmax(0).to(
            losses, non_blocking=True
        )  # drawn on the CPU, so that a GPU gets the same weights


class WorstCase(Weights):
    """min over theta of max_k L_k, by group DRO (Sagawa et al. 2020, algorithm 1).

    The total is `sum_k q_k L_k`: q takes a step of exponentiated gradient ascent, `q_k <- q_k exp(step L_k)`, scaled
    to the sum 1, over the tasks of the batch. Only losses count, not shares or the weights of parts.

    Args:
        n_losses: K.
        step: step size of q; `inf` puts all weight on the largest loss of the batch.
    """

    def __init__(self, n_losses: TwoOrMore, step: Annotated[float, Within(above=0, infinite=True)] = 0.01) -> None:
        super().__init__(n_losses)
        self.step = step
        self.register_buffer("log_q", torch.full([n_losses], -math.log(n_losses)))

    def weights(self, losses: Tensor, share: Tensor) -> Tensor:
        present = share > 0
        if math.isinf(self.step):
            largest = torch.where(present, losses, -math.inf).argmax()
            q = one_hot(largest, self.n_losses)
        else:
            log_q = self.get_buffer("log_q")
            log_q.copy_((log_q + self.step * torch.where(present, losses, 0)).log_softmax(0))
            q = log_q.exp()
        return torch.where(present, q / share, 0)


def check_shared(shared: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Those that are trained: frozen ones have no gradient to weigh.

    Raises:
        ValueError: if there are none.
    """
    trained = [parameter for parameter in shared if parameter.requires_grad]
    if not trained:
        got = f"{len(shared)} frozen ones" if shared else "none"
        raise ValueError(
            f"expected shared parameters that are trained, got {got}; tasks that share nothing have no "
            "conflict: use Fixed"
        )
    return trained


def _matrices(shared: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in shared if parameter.ndim > 1]


def _norm(loss: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    norm: Tensor = torch.stack([gradient.norm() for gradient in gradients]).norm()
    return norm
