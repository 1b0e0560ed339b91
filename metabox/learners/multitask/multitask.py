"""The base of multi-task networks: f(y | x, z_i) with K towers or heads, and various degrees of sharing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi, within
from metabox.learners.multitask.task_code import CodeKind, TaskCode
from metabox.nn.backbones import MakeBackbone
from metabox.nn.conditioning import Concat, Conditioner, Heads
from metabox.nn.embedding import Embedding
from metabox.nn.towers import PartHeads
from metabox.ranges import BelowOne, Positive
from metabox.targets import Classes, Parts, TaskSpec, Vector
from metabox.tasks.place import Place

if TYPE_CHECKING:
    from metabox.tasks.sampler import EpisodeSampler

EACH = "each."
N_TOLD = 50  # training tasks that are looked at to see whether they are told


class MultiTask(Learner):
    """K networks, or a network with K heads, that share more or less of their parameters.

    If targets have parts, K is their number: each network predicts its part of the same x. Otherwise K is the number of
    trained tasks, and the code of a task selects the network for its queries, or mixes the weights of several: it is
    the task's index and a linear map of what else is told (`metabox.learners.multitask.task_code`). With one task, or
    tasks without names, K is 1, and the descriptor joins the features.

    Training tells the task. With `code: both` a task that is not told in evaluation is inferred from its support, by
    Bayes' rule over the trained tasks for the labels, given the inputs: task k has the probability proportional to
    p(k) p(z|k) prod_n p_k(y_n|x_n), with p_k the prediction of network k over the task's own label set. The predictions
    of the networks are mixed in these proportions, not their weights: exactly for classes and labels, for reals in mean
    and variance. A task that is told for certain, or is described and was never trained, costs one network, others K.

    A subclass builds its layers from `self.embed.out_features`, `self.copies` (K) and `self.heads(...)`, and implements
    `outputs`. `metabox.nn.towers.shared_parameters` and `task_parameters` list theta_sh and theta_i.

    Args:
        spec: the tasks.
        backbone: shared by all networks, below them.
        condition: how the descriptor joins the features, if tasks have no names.
        code: where the code of a named task comes from: "given" by the descriptor, or "both", from the support as well.
        error: with "both", the probability that a descriptor names a wrong task; 0 to believe what is told.
        prior: with "both", the probability of each trained task; by default how often the sampler draws it.
    """

    targets = (Classes, Vector, Parts)

    def __init__(
        self,
        spec: TaskSpec,
        backbone: MakeBackbone | None,
        condition: type[Conditioner] = Concat,
        /,  # given by subclasses, no options of theirs
        *,
        code: CodeKind = "given",
        error: BelowOne = 0.01,
        prior: Sequence[Positive] | None = None,
    ) -> None:
        super().__init__(spec)
        if code != "given" and not spec.target.has_density:
            raise ValueError(
                f"expected a target with a likelihood, by which a task is inferred, with code {code!r}, got "
                f"{spec.target!r}, which has none; use code 'given', or one quantile"
            )
        unnamed = replace(spec, tasks=(), untrained=(), index_size=0)
        named = unnamed if spec.target.parts else spec
        self.code = TaskCode(named, code, error, prior)
        self.copies = len(spec.target.parts) or self.code.n_tasks
        joins = replace(unnamed, descriptor_size=0) if named.tasks else unnamed
        self.embed = Embedding(joins, backbone, condition)

    @abstractmethod
    def outputs(self, h: Tensor, code: Tensor | None) -> Tensor:
        """Features `[T, M, D]` and code `[T, K]`, or numbers of networks `[T]` (see `chooser`) -> `[T, M, P]`.

        For parts, which have no code, `[T * M, P]`.
        """

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `code [T, K]` (ones `[T, 1]` for parts), and the task statistics.

        With `code: both`, in evaluation, also `weights [T, K]` of the networks, zeros for a task that is told for
        certain; and if the code enters the backbone, the statistics under the code of each task, `each.NAME [T, K]`.
        """
        code = self.code(descriptor, len(support), support.x)
        phi = self._statistics(support, descriptor, code)
        if self.code.kind == "given" or self.training:
            return phi | {"code": code}
        if self.modulates:
            every = [self._statistics(support, None, self._of(k, len(code))) for k in range(self.copies)]
            phi |= {f"{EACH}{name}": torch.stack([one[name] for one in every], dim=1) for name in every[0]}
        score, certain = self.code.log_prior(descriptor, len(support))
        if support.x.shape[1] and not (self._reads_values() and bool(certain.all())):
            score = score + self._evidence(phi, support, classes)
        weights = score.softmax(-1) * ~certain[:, None]
        return phi | {"code": torch.where(certain[:, None], code, weights), "weights": weights}

    def _statistics(self, support: Examples, descriptor: Tensor | None, code: Tensor) -> Phi:
        z = None if self.code.spec.tasks else descriptor
        return self.embed.adapt(support, z, task=self.modulation(code))[1]

    def _of(self, k: int, n_tasks: int) -> Tensor:
        return self.code.of_task(k).expand(n_tasks, -1)

    def _evidence(self, phi: Phi, support: Examples, classes: Tensor | None) -> Tensor:
        """sum_n log p_k(y_n|x_n) `[T, K]`."""
        t, k = len(support), self.copies
        params = within(self._each(phi, support.x), classes).flatten(0, 1)
        y = support.y.repeat_interleave(k, dim=0)
        with torch.autocast(params.device.type, enabled=False):
            log_p = self.spec.target.log_prob(params.float(), y).unflatten(0, (t, k))
        return torch.where(support.mask[:, None], log_p, 0.0).sum(-1)

    def _each(self, phi: Phi, x: Tensor) -> Tensor:
        """The predictions of the networks of all trained tasks, `[T, K, M, P]`, one after another to save memory."""
        h, params = None if self.modulates else self.embed(x, phi), []
        own = {name[len(EACH) :]: value for name, value in phi.items() if name.startswith(EACH)}
        for k in range(self.copies):
            of_k = h if h is not None else self.embed(x, {name: value[:, k] for name, value in own.items()})
            rows = of_k.flatten(0, 1)[None]  # of all tasks as one: the code is the same
            params.append(self.outputs(rows, self._of(k, 1)).reshape(*x.shape[:2], self.n_params))
        return torch.stack(params, dim=1)

    @property
    def modulates(self) -> bool:
        """Whether the code enters the backbone."""
        return False

    def fit(self, tasks: EpisodeSampler) -> None:
        self.code.fit(tasks)
        z = tasks.sample(Place(N_TOLD)).descriptor if self.code.spec.tasks else None
        if z is not None and self.spec.index_size and (bool((z == 0).all(1).any()) or _leaves_out(tasks)):
            raise ValueError(
                "expected every task told in training, got descriptors of zeros; leave out `untold`, which is for "
                'evaluation, where code "both" infers the task'
            )

    def modulation(self, code: Tensor) -> dict[str, Tensor] | None:
        """FiLM parameters for the backbone, or None."""
        return None

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        weights = phi.get("weights")
        if weights is None:
            return self._told(phi, x)
        inferred = weights.sum(1) > 0
        if not self._reads_values():
            mixed = self._mixed(phi | {"weights": torch.where(inferred[:, None], weights, 1 / self.copies)}, x)
            return torch.where(inferred[:, None, None], mixed, self._told(phi, x).to(mixed.dtype))
        if bool(inferred.all()):
            return self._mixed(phi, x)
        params = self._told(phi, x)
        if bool(inferred.any()):
            mixed = self._mixed({name: value[inferred] for name, value in phi.items()}, x[inferred])
            params = params.to(mixed.dtype).index_put((inferred,), mixed)
        return params

    def _mixed(self, phi: Phi, x: Tensor) -> Tensor:
        each = within(self._each(phi, x), phi.get("classes"))
        with torch.autocast(each.device.type, enabled=False):
            return self.spec.target.mixture(each, phi["weights"])

    def _told(self, phi: Phi, x: Tensor) -> Tensor:
        h = self.embed(x, phi)
        return self.outputs(h, self.chooser(phi)).reshape(*h.shape[:2], self.n_params)

    def chooser(self, phi: Phi) -> Tensor | None:
        """The code that selects the network for the rows of a task; None for parts, for which all networks run.

        In training by index alone, which tells every task, it is the number of the network, `[T]`.
        """
        if self.spec.target.parts:
            return None
        return phi["code"].argmax(1) if self.training and self.code.is_index else phi["code"]

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
        if code is not None and not code.is_floating_point():
            own: Tensor = h.unflatten(1, (len(code), -1))[code, torch.arange(len(code), device=code.device)]
            return own
        return h if code is None else torch.einsum("tk,ktmd->tmd", code.to(h.dtype), h.unflatten(1, (len(code), -1)))


def _leaves_out(tasks: EpisodeSampler | None) -> bool:
    """Whether a sampler, or the one that it changes, sometimes does not tell the task."""
    return tasks is not None and (getattr(tasks, "untold", 0) > 0 or _leaves_out(getattr(tasks, "tasks", None)))
