"""Soft sharing: a network for each task, and a penalty that pulls them together."""

from __future__ import annotations

import torch
from torch import Tensor

from metabox.config import Unpack
from metabox.learners.method import Method
from metabox.learners.multitask.independent import Independent
from metabox.learners.multitask.task_code import CODE_OF_TASK, CodeOptions
from metabox.ranges import Count, NotNegative
from metabox.targets import TaskSpec


class SoftSharing(Independent):
    """Soft sharing: K networks, and a penalty on the distance between their parameters.

    `penalty = strength * sum_k |theta_k - mean_j theta_j|^2`, as in regularised multi-task learning (Evgeniou & Pontil
    2004, for kernel machines); 1 / (2 K) of it is what all pairs of networks give (Duong et al. 2015, for two).

    Deviations: the last layers are not penalised, since predictions may differ between tasks.

    Args:
        spec: the tasks.
        strength: of the penalty.
        width: units, or channels, of a layer.
        depth: layers below the last one; by default 4 for images and 2 for vectors.
        **kwargs: of `MultiTask`: code, error, prior.
    """

    method = Method(
        adapt=CODE_OF_TASK,
        predict=(
            (
                "K networks",
                r"u_k = F(x; \params_k), \quad \text{penalty } \lambda \sum_k \Big\lVert \params_k - "
                r"\frac{1}{K} \sum_j \params_j \Big\rVert^2",
            ),
            ("select", r"p(y \mid x, \task) = p\Big(y; \sum_k \task_k u_k\Big)"),
        ),
        cost=("N K", "M"),
        kin={"Independent": "a penalty draws the networks towards their mean; without it they are the same"},
    )

    def __init__(
        self,
        spec: TaskSpec,
        *,
        strength: NotNegative = 1e-2,
        width: Count = 32,
        depth: Count | None = None,
        **kwargs: Unpack[CodeOptions],
    ) -> None:
        super().__init__(spec, width=width, depth=depth, **kwargs)
        self.strength = strength

    def penalty(self) -> Tensor:
        apart = [(stack - stack.mean(0)).square().sum() for stack in self.towers.parameters()]
        return self.strength * torch.stack(apart).sum()
