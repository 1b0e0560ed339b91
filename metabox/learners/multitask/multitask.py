"""Multi-task networks: f(y | x, z_i) with K towers or heads, and various degrees of sharing."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.multitask.task_code import CodeKind, TaskCode
from metabox.nn.backbones import Flatten, MakeBackbone
from metabox.nn.conditioning import BackboneFiLM, Concat, Conditioner, FiLM, Heads
from metabox.nn.embedding import Embedding
from metabox.nn.mlp import Perceptron
from metabox.nn.towers import PartHeads, Towers
from metabox.ranges import Count, NotNegative, Share
from metabox.targets import Classes, Parts, TaskSpec, Vector


class MultiTask(Learner):
    """K networks, or a network with K heads, that share more or less of their parameters.

    If targets have parts, K is their number: each network predicts its part of the same x. Otherwise K is the number of
    named tasks, and the code of a task selects the network for its queries (see
    `metabox.learners.multitask.task_code`); with one task, or tasks without names, K is 1. The rest of the descriptor,
    beyond the one-hot task, joins the features.

    A subclass builds its layers from `self.embed.out_features`, `self.copies` (K) and `self.heads(...)`, and implements
    `outputs`. `metabox.nn.towers.shared_parameters` and `task_parameters` list theta_sh and theta_i.

    Args:
        spec: the tasks.
        backbone: shared by all networks, below them.
        code: where the code of a named task comes from: the descriptor, the support, or both.
        condition: how the rest of the descriptor joins the features.
    """

    targets = (Classes, Vector, Parts)

    def __init__(
        self,
        spec: TaskSpec,
        backbone: MakeBackbone | None,
        code: CodeKind = "given",
        condition: type[Conditioner] = Concat,
    ) -> None:
        super().__init__(spec)
        if code != "given" and not spec.target.has_density:
            raise ValueError(
                f"expected a target with a likelihood, by which a task is inferred, with code {code!r}, got "
                f"{spec.target!r}, which has none; use code 'given', or one quantile"
            )
        named = replace(spec, tasks=()) if spec.target.parts else spec
        self.code = TaskCode(named, code)
        self.copies = len(spec.target.parts) or self.code.n_tasks
        # The first columns of the descriptor are the task, one-hot, if tasks are named and targets have no parts.
        self.task_columns = min(len(named.tasks), spec.descriptor_size)
        rest = replace(spec, tasks=(), descriptor_size=spec.descriptor_size - self.task_columns)
        self.embed = Embedding(rest, backbone, condition)

    @abstractmethod
    def outputs(self, h: Tensor, code: Tensor | None) -> Tensor:
        """Features `[T, M, D]` and code `[T, K]` -> `[T, M, P]`, or for parts (no code) `[T * M, P]`."""

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `code [T, K]` (ones `[T, 1]` for parts), and the task statistics."""
        code = self.code(support, descriptor)
        rest = None if descriptor is None else descriptor[:, self.task_columns :]
        _, phi = self.embed.adapt(support, rest, task=self.modulation(code))
        return phi | {"code": code}

    def modulation(self, code: Tensor) -> dict[str, Tensor] | None:
        """FiLM parameters for the backbone, or None."""
        return None

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        h = self.embed(x, phi)
        return self.outputs(h, self.chooser(phi)).reshape(*h.shape[:2], self.n_params)

    def chooser(self, phi: Phi) -> Tensor | None:
        """The code that selects the network for the rows of a task; None for parts, for which all networks run."""
        return None if self.spec.target.parts else phi["code"]

    def heads(self, features: int) -> nn.Module:
        """The K last layers: features `[K or T, B, features]` and code -> natural parameters."""
        if not self.spec.target.parts:
            return Heads(features, self.copies, self.n_params)
        return PartHeads(features, tuple(part.n_params for part in self.spec.target.parts))

    def everywhere(self, h: Tensor) -> Tensor:
        """The same rows for all networks: `[T, M, ...]` -> `[K, T * M, ...]`."""
        return h.flatten(0, 1).expand(self.copies, *[-1] * (h.ndim - 1))

    def rows(self, h: Tensor) -> Tensor:
        """The rows of each network: for parts `[T, M, ...]` -> `[K, T * M, ...]`, otherwise unchanged."""
        return self.everywhere(h) if self.spec.target.parts else h

    def chosen(self, h: Tensor, code: Tensor | None) -> Tensor:
        """The outputs of each task's network, `[T, M, D]`, among those of all networks, `[K, T * M, D]`."""
        return h if code is None else torch.einsum("tk,ktmd->tmd", code.to(h.dtype), h.unflatten(1, (len(code), -1)))


class HardSharing(MultiTask):
    """Hard parameter sharing (Caruana 1997, "Multitask Learning"): one network with a last layer for each task.

    The descriptor may enter in other ways than by heads: with `condition` the code conditions the features, and two
    shared layers follow; with `film` it modulates the backbone.

    Deviations: the shared network is any backbone, where the paper has one hidden layer.

    Args:
        spec: the tasks.
        backbone: the shared network; by default Conv4 for images, an MLP for vectors.
        condition: how the code of a named task enters: by heads, or another class of `metabox.nn.conditioning`.
        film: whether the code also modulates every normalisation layer of the backbone.
        code: where the code of a named task comes from.

    Raises:
        ValueError: if targets have parts, which need heads, and `condition` or `film` is set, or the backbone has
            nothing to modulate.
    """

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        condition: type[Conditioner] = Heads,
        film: bool = False,
        code: CodeKind = "given",
    ) -> None:
        super().__init__(spec, backbone, code, FiLM)  # FiLM, since Concat would only shift a head's bias
        if spec.target.parts and (film or condition is not Heads):
            raise ValueError(
                "expected heads for targets with parts, whose code is not given, got "
                f"condition {condition.__name__}, film {film}; leave both out"
            )
        features = self.embed.out_features
        self.films = BackboneFiLM(self.embed.backbone.film_sizes(), self.copies) if film else None
        self.condition = None if condition is Heads else condition(features, self.copies)
        self.head = (
            Perceptron(self.condition.out_features, features, spec.target.n_params, depth=2)
            if self.condition
            else self.heads(features)
        )

    def modulation(self, code: Tensor) -> dict[str, Tensor] | None:
        return self.films(code) if self.films else None

    def outputs(self, h: Tensor, code: Tensor | None) -> Tensor:
        params: Tensor = self.head(self.condition(h, code)) if self.condition else self.head(self.rows(h), code)
        return params


class Independent(MultiTask):
    """K networks that share nothing: y = sum_j 1(z = j) y_j.

    With a soft code, every layer's output is the code's mixture of the K layers' outputs.

    Args:
        spec: the tasks.
        width: units, or channels, of a layer.
        depth: layers below the last one; by default 4 for images and 2 for vectors.
        code: where the code of a named task comes from.
    """

    def __init__(
        self, spec: TaskSpec, *, width: Count = 32, depth: Count | None = None, code: CodeKind = "given"
    ) -> None:
        super().__init__(spec, Flatten, code)
        self.towers = make_towers(self, width, depth)
        self.head = self.heads(self.towers.out_features)

    def outputs(self, h: Tensor, code: Tensor | None) -> Tensor:
        params: Tensor = self.head(self.towers(self.rows(h), code), code)
        return params


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
        code: where the code of a named task comes from.
    """

    def __init__(
        self,
        spec: TaskSpec,
        *,
        strength: NotNegative = 1e-2,
        width: Count = 32,
        depth: Count | None = None,
        code: CodeKind = "given",
    ) -> None:
        super().__init__(spec, width=width, depth=depth, code=code)
        self.strength = strength

    def penalty(self) -> Tensor:
        apart = [(stack - stack.mean(0)).square().sum() for stack in self.towers.parameters()]
        return self.strength * torch.stack(apart).sum()


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
        code: where the code of a named task comes from.
    """

    def __init__(
        self,
        spec: TaskSpec,
        *,
        width: Count = 32,
        depth: Count | None = None,
        same: Share = 0.9,
        code: CodeKind = "given",
    ) -> None:
        super().__init__(spec, Flatten, code)
        self.towers = make_towers(self, width, depth, stitch=same)
        self.head = self.heads(self.towers.out_features)

    def outputs(self, h: Tensor, code: Tensor | None) -> Tensor:
        params: Tensor = self.head(self.chosen(self.towers(self.everywhere(h)), code), code)
        return params


def make_towers(learner: MultiTask, width: int, depth: int | None, stitch: float | None = None) -> Towers:
    x_shape, features = learner.spec.x_shape, learner.embed.out_features
    depth = depth or (4 if len(x_shape) == 3 else 2)
    return Towers(x_shape, features - learner.embed.backbone.out_features, learner.copies, width, depth, stitch)
