"""Mixtures of experts for several tasks: MMoE and PLE."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from metabox.config import Unpack
from metabox.episodes import Episodes
from metabox.learners.method import Method
from metabox.learners.multitask.multitask import MultiTask
from metabox.learners.multitask.task_code import CODE_OF_TASK, CodeOptions
from metabox.nn.backbones import Flatten, MakeBackbone
from metabox.nn.sets import one_hot
from metabox.nn.towers import Stack
from metabox.ranges import BelowOne, Count
from metabox.targets import TaskSpec


class MMoE(MultiTask):
    """Multi-gate mixture of experts (Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning with MMoE").

    y_k = h^k(f^k(x)), f^k(x) = sum_i g^k(x)_i f_i(x), g^k(x) = softmax(W_gk x) (equations 6 to 8). The experts f_i are
    shared; every task has a gate g^k and a tower h^k. Experts and towers are a layer with ReLU each, as in the paper.

    `expert_dropout` keeps gates from collapsing onto few experts: in training each weight of a gate is set to 0 with
    that probability, and the others are divided by their sum (Zhao et al. 2019, "Recommending What Video to Watch
    Next", who use 0.1). `gate_usage`, in every result file, reports the mean weights.

    Deviations: images pass through a backbone first. A gate whose weights were all dropped keeps them all.

    Args:
        spec: the tasks.
        backbone: what experts and gates read; by default Conv4 for images, and vectors as they are.
        n_experts: number of experts.
        expert_size: units of an expert.
        tower_size: units of a tower.
        expert_dropout: probability that a gate drops an expert in training.
        **kwargs: of `MultiTask`: code, error, prior.
    """

    method = Method(
        adapt=CODE_OF_TASK,
        predict=(
            ("experts", r"e_j = \net{relu}(W_j \known)"),
            ("gate of each task", r"g_k = \softmax(G_k \known)"),
            (
                "tower of the task",
                r"p(y \mid x, \task) = p\Big(y; \sum_k \task_k\, \net{tower}_k\Big(\sum_j g_{kj} e_j\Big)\Big)",
            ),
        ),
        cost=("N K", "M K"),
        kin={"HardSharing": "several shared networks, which each task weights by a gate"},
    )

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        n_experts: Count = 8,
        expert_size: Count = 16,
        tower_size: Count = 8,
        expert_dropout: BelowOne = 0.0,
        **kwargs: Unpack[CodeOptions],
    ) -> None:
        super().__init__(spec, backbone or default_backbone(spec), **kwargs)
        features = self.embed.out_features
        self.n_experts, self.expert_dropout = n_experts, expert_dropout
        self.experts = nn.Linear(features, n_experts * expert_size)
        self.gates = Stack(self.copies, features, n_experts, bias=False, of_tasks=True)
        self.towers = Stack(self.copies, expert_size, tower_size, of_tasks=True)
        self.head = self.heads(tower_size)

    def outputs(self, h: Tensor, code: Tensor | None) -> Tensor:
        experts = torch.relu(self.experts(h)).unflatten(-1, (self.n_experts, -1))
        scores = self.gates(self.rows(h), code)
        if self.training and self.expert_dropout:
            scores = dropped(scores, self.expert_dropout)
        params: Tensor = self.head(torch.relu(self.towers(weighed(scores, self.rows(experts)), code)), code)
        return params

    @torch.no_grad()
    def gate_usage(self, episodes: Episodes) -> Tensor:
        """Mean weight of each expert in the gate of each task (or part): `[K, E]`, NaN for a task without queries."""
        phi = self.adapt(episodes.support, episodes.descriptor)
        h, code, real = self.embed(episodes.query.x, phi), self.chooser(phi), episodes.query.mask.float()
        gate: Tensor = self.gates(self.rows(h), code).float().softmax(-1)
        if code is None:
            return (gate * real.view(-1, 1)).sum(1) / real.sum()
        task = code.new_zeros(len(code)).long() if episodes.task is None else episodes.task
        rows = one_hot(task, max(1, len(self.spec.tasks))).float().T
        return rows @ (gate * real[..., None]).sum(1) / (rows @ real.sum(1, keepdim=True))

    def describe(self, episodes: Episodes) -> dict[str, Any]:
        names = self.spec.tasks or tuple(part.name for part in self.spec.target.parts) or ("the task",)
        usage = zip(names, self.gate_usage(episodes).tolist(), strict=True)
        return {
            "gate_usage": {
                name: [round(weight, 4) for weight in gate] for name, gate in usage if not math.isnan(gate[0])
            }
        }


class PLE(MultiTask):
    """Progressive layered extraction (Tang et al. 2020); with one level it is CGC, customised gate control.

    At level j the experts of task k and the shared ones read what the level below extracted for them, at first x. The
    gate of task k weights its own experts and the shared ones, g^{k,j} = softmax(W g^{k,j-1}) S^{k,j}; below the last
    level, a shared gate weights all experts of all tasks for the shared experts of the next. A tower for each task
    follows (sections 4.1, CGC, and 4.2, PLE). Experts and towers are a layer with ReLU each.

    Below the last level every row passes through the experts of all tasks, whatever its task.

    Deviations: images pass through a backbone first. The sizes are chosen here.

    Args:
        spec: the tasks.
        backbone: what experts and gates read; by default Conv4 for images, and vectors as they are.
        levels: levels of extraction; 1 is CGC.
        task_experts: experts of each task at each level.
        shared_experts: shared experts at each level.
        expert_size: units of an expert.
        tower_size: units of a tower.
        **kwargs: of `MultiTask`: code, error, prior.
    """

    method = Method(
        adapt=CODE_OF_TASK,
        predict=(
            ("experts of each level", r"e_{kj}^l = \net{relu}(W_{kj}^l u_k^{l-1}), \quad k = 0 \text{ shared}"),
            ("gates", r"u_k^l = \sum_j g_{kj}^l\, [e_k^l, e_0^l]_j, \quad g_k^l = \softmax(G_k^l u_k^{l-1})"),
            ("tower of the task", r"p(y \mid x, \task) = p\Big(y; \sum_k \task_k\, \net{tower}_k(u_k^L)\Big)"),
        ),
        cost=("N K", "M K"),
        kin={"MMoE": "each task has experts of its own beside the shared ones, in several levels"},
    )

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        levels: Count = 2,
        task_experts: Count = 2,
        shared_experts: Count = 2,
        expert_size: Count = 32,
        tower_size: Count = 16,
        **kwargs: Unpack[CodeOptions],
    ) -> None:
        super().__init__(spec, backbone or default_backbone(spec), **kwargs)
        sizes = [self.embed.out_features] + [expert_size] * levels
        self.levels = nn.ModuleList(
            Extraction(self.copies, sizes[j], expert_size, task_experts, shared_experts, above=levels - 1 - j)
            for j in range(levels)
        )
        self.towers = Stack(self.copies, expert_size, tower_size, of_tasks=True)
        self.head = self.heads(tower_size)

    def outputs(self, h: Tensor, code: Tensor | None) -> Tensor:
        *lower, last = self.levels
        own, shared = self.everywhere(h), h.flatten(0, 1)[None]
        for level in lower:
            own, shared = level(own, shared)
        if code is not None:  # from here a row passes through its own task only
            own, shared = self.chosen(own, code) if lower else h, shared.view(*h.shape[:2], -1)
        own, _ = last(own, shared, code)
        params: Tensor = self.head(torch.relu(self.towers(own, code)), code)
        return params


class Extraction(nn.Module):
    """One level of PLE.

    Args:
        copies: K tasks.
        inputs: features that the experts read.
        size: units of an expert.
        own: number of experts of each task.
        shared: number of shared experts.
        above: number of levels above this one; if 0, there is no shared gate.
    """

    def __init__(self, copies: int, inputs: int, size: int, own: int, shared: int, above: int) -> None:
        super().__init__()
        self.size = size
        # Shared gates pass each task's experts on to all tasks: experts belong to one task only on the last level, and
        # gates only if the level above is the last, or there is none.
        self.own = Stack(copies, inputs, own * size, of_tasks=above == 0)
        self.shared = nn.Linear(inputs, shared * size)
        self.gates = Stack(copies, inputs, own + shared, bias=False, of_tasks=above <= 1)
        self.shared_gate = nn.Linear(inputs, copies * own + shared, bias=False) if above else None

    def forward(self, own: Tensor, shared: Tensor, code: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features from the level below, for each task and shared: two `[..., inputs]` to two `[..., size]`.

        own `[K, B, inputs]` with shared `[1, B, inputs]`; or on the last level, with a code, both `[T, M, inputs]`.
        """
        of_task = torch.relu(self.own(own, code)).unflatten(-1, (-1, self.size))
        of_all = torch.relu(self.shared(shared)).unflatten(-1, (-1, self.size))
        selected = torch.cat([of_task, of_all.expand(len(of_task), -1, -1, -1)], dim=2)
        own = weighed(self.gates(own, code), selected)
        if self.shared_gate is None:
            return own, shared
        every = torch.cat([of_task.transpose(0, 1).flatten(1, 2)[None], of_all], dim=2)
        return own, weighed(self.shared_gate(shared), every)


def weighed(scores: Tensor, experts: Tensor) -> Tensor:
    """sum_i softmax(scores)_i f_i: scores `[..., E]`, experts `[..., E, H]` -> `[..., H]`."""
    gate = scores.float().softmax(-1).to(experts.dtype)
    return (gate[..., None] * experts).sum(-2)  # a matrix product would copy experts that tasks share for each task


def dropped(scores: Tensor, probability: float) -> Tensor:
    """Scores with some set to -inf at random, so that softmax gives them no weight; never all of a gate."""
    kept = torch.rand_like(scores) >= probability
    return scores.masked_fill(~(kept | ~kept.any(-1, keepdim=True)), -torch.inf)


def default_backbone(spec: TaskSpec) -> MakeBackbone | None:
    """`Flatten` for vectors, which experts and gates read directly in the papers; None for images."""
    return None if len(spec.x_shape) == 3 else Flatten
