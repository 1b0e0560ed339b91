"""Weighting: how the losses of several tasks become one step. `metabox.multitask` has weights and gradient surgery.

Letters as elsewhere, and K losses: of K named tasks, or of the K parts of a target. With L_k the mean loss of task k
and s_k its share (the part of the batch's rows that are its own; 0 where the batch has none of them; a part's weight),
the plain sum `sum_k s_k L_k` is the mean loss of the batch. It is the baseline: every weight here is 1 there, and a
weighting that finds nothing to change leaves that sum, at that scale, so that one learning rate serves all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from metabox.config import Configured
from metabox.nn.sets import one_hot
from metabox.ranges import TwoOrMore
from metabox.targets import TaskSpec

Backward = Callable[[Tensor], None]


class Weighting(nn.Module, Configured, ABC):
    """What a step makes of K losses. State is in buffers; parameters, where there are any, join the optimizer.

    Args:
        n_losses: K.

    Raises:
        ValueError: for fewer than two losses.
    """

    def __init__(self, n_losses: TwoOrMore) -> None:
        super().__init__()
        self.n_losses = n_losses

    @abstractmethod
    def backward(self, losses: Tensor, share: Tensor, shared: Sequence[nn.Parameter], backward: Backward) -> None:
        """Add the gradients of the step to `.grad`.

        Args:
            losses: `[K]`, with gradients; read only where the share is above 0.
            share: `[K]`.
            shared: theta_sh, the parameters that the tasks have in common.
            backward: the engine's own, from a scalar loss to `.grad` of every parameter.
        """

    def check(self, losses: Tensor, share: Tensor) -> None:
        if not losses.shape == share.shape == (self.n_losses,):
            raise ValueError(
                f"expected losses and share of shape [{self.n_losses}], got {list(losses.shape)} and "
                f"{list(share.shape)}; n_losses is the number of named tasks, or of parts"
            )


def task_names(spec: TaskSpec) -> tuple[str, ...]:
    """The K things whose losses are weighed: the named tasks, or else the parts of the target.

    Raises:
        ValueError: where there are no two of them.
    """
    names = spec.tasks or tuple(part.name for part in spec.target.parts)
    if len(names) < 2:
        raise ValueError(f"expected a spec with two named tasks or parts at least, got {names or 'none'}")
    return names


def losses_by_task(spec: TaskSpec, result: Mapping[str, Tensor], task: Tensor | None) -> tuple[Tensor, Tensor]:
    """What an `Objective` found as losses `[K]` and shares `[K]`, with `sum_k s_k L_k` the mean loss of the batch.

    Args:
        spec: the tasks.
        result: of the objective.
        task: which named task each row is of, `[T]`; not needed for parts.

    Raises:
        ValueError: where there are no two tasks or parts, or the episodes do not say which tasks they are.
    """
    names, loss = task_names(spec), result["loss"]
    if not spec.tasks:
        share = torch.tensor([part.weight for part in spec.target.parts]).to(loss, non_blocking=True)
        losses = torch.stack([result[f"loss_{name}"].mean() for name in names])
        # What is no part's own (a learner's penalty, the divergence of a latent) is every part's alike.
        return losses + (loss.mean() - (share * losses).sum()) / share.sum(), share
    if task is None:
        raise ValueError("expected episodes that say which task each row is, got task=None; the sampler gives it")
    rows = one_hot(task, len(names)).to(loss)  # [T, K]
    count = rows.sum(0)
    return (loss @ rows) / count.clamp(min=1), count / len(task)
