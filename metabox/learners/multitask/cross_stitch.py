"""Cross-stitch networks: a network for each task, which reads the activations of the others."""

from __future__ import annotations

from torch import Tensor

from metabox.config import Unpack
from metabox.learners.method import Method
from metabox.learners.multitask.independent import make_towers
from metabox.learners.multitask.multitask import MultiTask
from metabox.learners.multitask.task_code import CODE_OF_TASK, CodeOptions
from metabox.nn.backbones import Flatten
from metabox.ranges import Count, Share
from metabox.targets import TaskSpec


class CrossStitch(MultiTask):
    """Cross-stitch networks (Misra et al. 2016, "Cross-stitch Networks for Multi-task Learning").

    K networks; after each layer a unit replaces the activations of network i by x_i <- sum_j alpha_ij x_j (equation 1),
    channel by channel. Every row passes through all networks, whatever its task.

    Deviations: any number of networks, where the paper has two. They are small and trained from scratch, where the
    paper has AlexNets that were trained on one task each. All parameters have one learning rate; the paper's alpha has
    a larger one. There are units after every layer, in the paper after pooling and fully connected layers.

    Args:
        spec: the tasks.
        width: units, or channels, of a layer.
        depth: layers below the last one; by default 4 for images and 2 for vectors.
        same: initial alpha_ii; the rest of 1 is divided among the other networks.
        **kwargs: of `MultiTask`: code, error, prior.
    """

    method = Method(
        adapt=CODE_OF_TASK,
        predict=(
            ("K networks, stitched", r"h_k^{l+1} = F^l\Big(\sum_j \alpha_{kj}^l h_j^l; \params_k^l\Big)"),
            ("select", r"p(y \mid x, \task) = p\Big(y; \sum_k \task_k W_k h_k^L\Big)"),
        ),
        cost=("N K", "M K"),
        kin={"Independent": "after each layer the networks mix their features; with the identity they are the same"},
    )

    def __init__(
        self,
        spec: TaskSpec,
        *,
        width: Count = 32,
        depth: Count | None = None,
        same: Share = 0.9,
        **kwargs: Unpack[CodeOptions],
    ) -> None:
        super().__init__(spec, Flatten, **kwargs)
        self.towers = make_towers(self, width, depth, stitch=same)
        self.head = self.heads(self.towers.out_features)

    def outputs(self, h: Tensor, code: Tensor | None) -> Tensor:
        params: Tensor = self.head(self.chosen(self.towers(self.everywhere(h)), code), code)
        return params
