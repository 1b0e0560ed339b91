"""A network of its own for each task."""

from __future__ import annotations

from torch import Tensor

from metabox.config import Unpack
from metabox.learners.method import Method
from metabox.learners.multitask.multitask import MultiTask
from metabox.learners.multitask.task_code import CODE_OF_TASK, CodeOptions
from metabox.nn.backbones import Flatten
from metabox.nn.towers import Towers
from metabox.ranges import Count
from metabox.targets import TaskSpec


class Independent(MultiTask):
    """K networks that share nothing: y = sum_j 1(z = j) y_j.

    If a task is described, not only named, every layer's output is the code's mixture of the K layers' outputs.

    Args:
        spec: the tasks.
        width: units, or channels, of a layer.
        depth: layers below the last one; by default 4 for images and 2 for vectors.
        **kwargs: of `MultiTask`: code, error, prior.
    """

    method = Method(
        adapt=CODE_OF_TASK,
        predict=(
            ("K networks", r"u_k = F(x; \params_k)"),
            ("select", r"p(y \mid x, \task) = p\Big(y; \sum_k \task_k u_k\Big)"),
        ),
        cost=("N K", "M"),
    )

    def __init__(
        self, spec: TaskSpec, *, width: Count = 32, depth: Count | None = None, **kwargs: Unpack[CodeOptions]
    ) -> None:
        super().__init__(spec, Flatten, **kwargs)
        self.towers = make_towers(self, width, depth)
        self.head = self.heads(self.towers.out_features)

    def outputs(self, h: Tensor, code: Tensor | None) -> Tensor:
        params: Tensor = self.head(self.towers(self.rows(h), code), code)
        return params


def make_towers(learner: MultiTask, width: int, depth: int | None, stitch: float | None = None) -> Towers:
    x_shape, features = learner.spec.x_shape, learner.embed.out_features
    depth = depth or (4 if len(x_shape) == 3 else 2)
    return Towers(x_shape, features - learner.embed.backbone.out_features, learner.copies, width, depth, stitch)
