"""A code for which of K named tasks this is: given by the descriptor, inferred from the support, or both."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from metabox.checks import checked
from metabox.episodes import Examples
from metabox.nn.backbones import Conv4, make_backbone
from metabox.nn.mlp import Perceptron
from metabox.targets import TaskSpec

CodeKind = Literal["given", "inferred", "both"]


class TaskCode(nn.Module):
    """The code `[T, K]` of the task, from z and the evidence of D_i^tr in one formula.

    code = softmax(b + a z + sum_n e(x_n, y_n)) is Bayes' rule for one of K tasks: b_k is the log prior, e_k the log
    likelihood of an example in task k, and a is a learned trust in z. A z of zeros and an empty support carry no
    information; without either the code is the prior.

    e starts at zero and is divided by its width, so that the networks that the code selects first learn from z, before
    the evidence has any weight; otherwise the code could settle on one network while all are alike.

    * "given": the code is z; nothing is inferred, and there are no parameters.
    * "inferred": z is left out.
    * "both": the whole formula. To work without z, it has to be trained on some tasks whose z is zeros.

    Args:
        spec: the tasks. Without names there is one task, and its code is 1.
        kind: where the code comes from.
        width: hidden units of e, and channels or units of the backbone below.

    Raises:
        ValueError: if there is nothing to infer, or the code is given and the descriptor is too small for it.
    """

    decayed = ()

    @checked
    def __init__(self, spec: TaskSpec, kind: CodeKind = "given", width: int = 32) -> None:
        super().__init__()
        k = len(spec.tasks)
        if kind != "given" and k < 2:
            raise ValueError(f'expected at least 2 named tasks to infer one of them, got {spec}; use code "given"')
        if kind != "inferred" and spec.descriptor_size < k:
            raise ValueError(
                f"expected a descriptor that begins with the task, one-hot, of size {k} at least, got "
                f'{spec.descriptor_size}; give the sampler descriptors, or use code "inferred"'
            )
        self.spec, self.kind, self.width, self.n_tasks = spec, kind, width, max(1, k)
        if kind != "given":
            small = partial(Conv4, width=width, downsample="stem") if len(spec.x_shape) == 3 else None
            self.backbone = make_backbone(small, spec.x_shape)
            self.evidence = Perceptron(
                self.backbone.out_features + spec.target.label_size, width, k, depth=2, bias=False
            )
            nn.init.zeros_(cast(nn.Linear, self.evidence[-1]).weight)
            self.prior = nn.Parameter(torch.zeros(k))
        if kind == "both":
            self.trust = nn.Parameter(torch.tensor(3 + math.log(k)))  # a given task starts with 0.95 or more

    def forward(self, support: Examples, descriptor: Tensor | None) -> Tensor:
        """The support and z `[T, dz]`, whose first K columns are the task -> `[T, K]`."""
        given = None if descriptor is None else descriptor[:, : self.n_tasks]
        if self.kind == "given":
            if given is None or not self.spec.tasks:
                return torch.ones(len(support), 1, device=support.x.device)
            return given
        evidence = self.evidence(self.backbone(support.x), self.spec.target.encode(support.y, support.mask))
        score: Tensor = self.prior + (evidence.float() / self.width * support.mask[..., None]).sum(1)
        if self.kind == "both" and given is not None:
            score = score + self.trust * given
        return score.softmax(-1)
