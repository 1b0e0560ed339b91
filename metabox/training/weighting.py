"""Weighting: how the losses of several tasks become one step. `metabox.multitask` has weights and gradient surgery.

There are K losses, of K named tasks or of the K parts of a target. With L_k the mean loss of task k and s_k its share
(its fraction of the batch's rows, 0 if the batch has none of them; for a part, its weight, 0 if the batch has no label
of it), the plain sum `sum_k s_k L_k` is the mean loss of the batch, a penalty beside parts left out. It is the
baseline, with all weights 1; a weighting that finds nothing to change leaves this sum, at this scale, so that one
learning rate serves all.
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
    """How K losses become one step. State is in buffers; parameters, if there are any, join the optimizer.

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
            losses: `[K]`, with gradients; read only if the share is above 0.
            share: `[K]`.
            shared: theta_sh, the parameters that the tasks have in common.
            backward: the engine's backward pass, from a scalar loss to `.grad` of every parameter.
        """

    def fit(self, spec: TaskSpec) -> None:
        """Take what depends on the kind of each loss, once, before the first step.

        Raises:
            ValueError: if the weighting has no meaning for targets of this kind.
        """

    def check(self, losses: Tensor, share: Tensor) -> None:
        if not losses.shape == share.shape == (self.n_losses,):
            raise ValueError(
                f"expected losses and share of shape [{self.n_losses}], got {list(losses.shape)} and "
                f"{list(share.shape)}; n_losses is the number of named tasks, or of parts"
            )


def task_names(spec: TaskSpec) -> tuple[str, ...]:
    """The names of the K weighed losses: the named tasks, or else the parts of the target.

    Raises:
        ValueError: if there are fewer than two.
    """
    names = spec.tasks or tuple(part.name for part in spec.target.parts)
    if len(names) < 2:
        raise ValueError(f"expected a spec with two named tasks or parts at least, got {names or 'none'}")
    return names


def losses_by_task(spec: TaskSpec, result: Mapping[str, Tensor], task: Tensor | None) -> tuple[Tensor, Tensor]:
    """The result of an `Objective` as losses `[K]` and shares `[K]`, with `sum_k s_k L_k` the mean loss of the batch.

    The loss of a part is its mean over all its labels in the batch, however the rows are cut into tasks.

    Args:
        spec: of the tasks.
        result: of the objective.
        task: the named task of each row, `[T]`; not needed for parts.

    Raises:
        ValueError: if there are fewer than two tasks or parts, or `task` is missing.
    """
    names, loss = task_names(spec), result["loss"]
    if not spec.tasks:
        share = torch.tensor([part.weight for part in spec.target.parts]).to(loss, non_blocking=True)
        labels = torch.stack([result[f"labels_{name}"] for name in names])  # [K, T]
        by_row = torch.stack([result[f"loss_{name}"] for name in names])
        count = labels.sum(1)
        by_row = torch.where(labels > 0, by_row, 0)  # NaN in evaluation
        return (by_row * labels).sum(1) / count.clamp(min=1), torch.where(count > 0, share, 0)
    if task is None:
        raise ValueError("expected episodes that say which task each row is, got task=None; the sampler gives it")
    rows = one_hot(task, len(names)).to(loss)  # [T, K]
    count = rows.sum(0)
    return (loss @ rows) / count.clamp(min=1), count / len(task)
