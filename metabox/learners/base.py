"""The one interface of every learner: `phi = adapt(D_tr, z)`, `params = predict(phi, x)`."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.checks import kind_of, shown
from metabox.config import Configured
from metabox.episodes import Episodes, Examples
from metabox.inputs import floats_of, tensor_of
from metabox.learners.method import Method
from metabox.learners.phi import check_axes, check_earlier, check_names, check_phi, remember
from metabox.learners.scaler import Scaler
from metabox.nn.sets import membership
from metabox.targets import Classes, Target, TaskSpec, Vector
from metabox.targets.spec import Scale

if TYPE_CHECKING:
    from metabox.tasks.sampler import EpisodeSampler

Phi = dict[str, Tensor]
"""Task parameters: named tensors, each with the task axis T in front. They can be sliced, cached, moved and saved."""


class Learner(nn.Module, Configured, ABC):
    """Maps the support of a task to its parameters phi, and phi with query inputs to predictions.

    A subclass implements `infer` and `answer`, which `adapt` and `predict` call after checking their arguments, and
    stores nothing about a task on the module. The first argument of its constructor is the `spec`.

    The label set of a task, `classes [T, C]`, is kept in phi, and the logits of all other classes are set so low that
    their probability is 0: no learner predicts a class outside the label set.

    If the spec has a `scale`, `infer`, `answer` and `unroll` get x and real y at location 0 and scale 1, and what they
    return is put in the units of y afterwards.
    """

    targets: ClassVar[tuple[type[Target], ...]] = (Classes, Vector)
    """The kinds of target it can predict."""
    ordered: ClassVar[bool] = False
    """True if predictions depend on the order of the support."""
    transductive: ClassVar[bool] = False
    """True if queries may influence each other."""
    label_equivariant: ClassVar[bool] = False
    """True if renaming the classes renames the predictions, and does nothing else."""
    reads_support: ClassVar[bool] = True
    """False if no prediction depends on the support: x alone, or x and the descriptor."""
    continues: ClassVar[bool] = False
    """True if `adapt` and `stream` can go on from the phi of earlier examples."""
    decayed: ClassVar[tuple[str, ...]] = ()
    """Names of its own parameters that weight decay pulls towards 0; its modules name theirs in the same way."""
    scales: ClassVar[tuple[Scale, ...]] = get_args(Scale)
    """The scales of a spec that it can work with."""
    method: ClassVar[Method | None] = None
    """Its formulas, costs and kin, of which its page in the documentation is made."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__()
        if not isinstance(spec.target, self.targets):
            kinds = ", ".join(kind.__name__ for kind in self.targets)
            raise ValueError(f"expected a target among {kinds} for {type(self).__name__}, got {spec.target!r}")
        if spec.scale not in self.scales:
            raise ValueError(f"expected scale {' or '.join(self.scales)} for {type(self).__name__}, got {spec.scale!r}")
        if spec.target.statistics is not None:  # a copy for this learner, saved with its weights
            spec = replace(spec, target=copy.deepcopy(spec.target))
            self.statistics = spec.target.statistics
        self.spec = spec
        self.scaler = Scaler.of(spec)

    __repr__ = Configured.__repr__  # one line instead of the tree of its modules

    @property
    def n_params(self) -> int:
        """P, natural parameters per query point; without location and scale, which `Target.in_units` adds."""
        return self.spec.target.n_params

    def adapt(
        self,
        support: Examples,
        descriptor: Tensor | None = None,
        classes: Tensor | None = None,
        phi: Phi | None = None,
    ) -> Phi:
        """Map D_tr to phi, the task parameters, each with the task axis T in front.

        Args:
            support: D_tr `[T, N, ...]`; N = 0 is legal.
            descriptor: z `[T, dz]`, if the spec has one.
            classes: if targets are classes, the label set of each task: bool `[T, up to C]`. By default the classes in
                the support, and all C for a task with an empty support.
            phi: of the examples before these, if the learner `continues`: the result is that of all of them. The label
                set is by default that of phi with the classes in the support.

        Raises:
            ValueError: if the support is not of the kind that the learner was built for, or has a label outside the
                label set; if phi is not from this learner, or the learner cannot go on from one.
        """
        support, descriptor, classes = self.check(support, descriptor, classes)
        if phi is not None:
            phi = check_earlier(self, phi, support)
            if classes is None and "classes" in phi:
                classes = phi["classes"] | membership(support.y, support.mask, phi["classes"].shape[1]).any(1)
            classes = self.label_set(support, classes)
            after = self.infer_from(phi, self.scaled(support, {}), descriptor, classes)
            return after if classes is None else after | {"classes": classes}
        held = {} if self.scaler is None else self.scaler.measure(support)
        phi = self._phi(self.scaled(support, held), descriptor, self.label_set(support, classes)) | held
        if self._reads_values():
            remember(self, phi)
        return phi

    def predict(self, phi: Phi, x: Tensor) -> Tensor:
        """Map phi and query inputs `[T, M, *x_shape]` to natural parameters `[T, M, P]`, all queries in one pass.

        For classes, P is the length of the label set's axis, and logits outside the set are the lowest number of their
        dtype, so that softmax gives 0. With a `scale`, the location and scale of y follow the P parameters of real y,
        and every method of the target takes that, in the units of y.

        Raises:
            ValueError: if x is not of the kind that the learner was built for, or phi is not from this learner or not
                for the tasks of x.
        """
        phi, x = self.check_query(phi, x)
        x = self.scaled_inputs(x, phi)
        if not self._reads_values():
            return self.in_units(within(self.answer(phi, x), phi.get("classes")), phi)
        try:
            return self.in_units(within(self.answer(phi, x), phi.get("classes")), phi)
        except (RuntimeError, LookupError, TypeError, AttributeError):
            check_axes(self, phi)
            raise

    def stream(
        self,
        examples: Examples,
        descriptor: Tensor | None = None,
        classes: Tensor | None = None,
        phi: Phi | None = None,
    ) -> Tensor:
        """Predictions `[T, N, P]` along a sequence: step t sees examples[:t] and x[t].

        Args:
            examples: the sequence `[T, N, ...]`.
            descriptor: z `[T, dz]`, if the spec has one.
            classes: the label set, as for `adapt`; by default all C, since later examples are unknown.
            phi: of the examples before these, as for `adapt`.

        Raises:
            ValueError: as for `adapt`.
        """
        examples, descriptor, classes = self.check(examples, descriptor, classes)
        phi = None if phi is None else check_earlier(self, phi, examples)
        if classes is None and self.spec.target.n_classes is not None:
            classes = examples.mask.new_ones(len(examples), self.spec.target.n_classes)
        classes = self.label_set(examples, classes)
        if self.scaler is not None and self.spec.scale == "support":
            return within(self._unroll_scaled(examples, descriptor, classes), classes)
        examples = self.scaled(examples, {})
        if phi is None:
            params = self.unroll(examples, descriptor, classes)
        else:
            params = self.unroll_from(phi, examples, descriptor, classes)
        return self.in_units(within(params, classes), {})

    @abstractmethod
    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """Compute phi for `adapt`: padding in the support is zeros, `classes` is `[T, C]` or None without classes."""

    @abstractmethod
    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        """Compute `[T, M, P]` for `predict`; logits outside the label set may have any value."""

    def unroll(self, examples: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Tensor:
        """Compute `[T, N, P]` for `stream`."""
        # Slow but correct, one adaptation per step; learners with a fast path override it.
        steps = [
            self.answer(self._phi(examples[:, :t], descriptor, classes), examples.x[:, t : t + 1])
            for t in range(examples.x.shape[1])
        ]
        return torch.cat(steps, dim=1)

    def infer_from(self, phi: Phi, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """Compute `infer` of the examples of phi and then these, if the learner `continues`."""
        raise NotImplementedError

    def unroll_from(self, phi: Phi, examples: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Tensor:
        """Compute `unroll` of these after the examples of phi, likewise."""
        raise NotImplementedError

    def _unroll_scaled(self, examples: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Tensor:
        """The same where each step has a scale of its own, that of examples[:t]: no fast path knows it in advance."""
        scaler, steps = cast(Scaler, self.scaler), []
        for t in range(examples.x.shape[1]):
            before = examples[:, :t]
            held = scaler.measure(before)
            phi = self._phi(self.scaled(before, held), descriptor, classes) | held
            x = self.scaled_inputs(examples.x[:, t : t + 1], held)
            steps.append(self.in_units(self.answer(phi, x), phi))
        return torch.cat(steps, dim=1)

    def scaled(self, examples: Examples, phi: Mapping[str, Tensor]) -> Examples:
        """Checked examples as `infer` gets them: at location 0 and scale 1, by the statistics in phi or the weights.

        Raises:
            ValueError: if a number is absurd on that scale.
        """
        return examples if self.scaler is None else self.scaler.examples(examples, phi, self._reads_values())

    def scaled_inputs(self, x: Tensor, phi: Mapping[str, Tensor]) -> Tensor:
        """Checked query inputs as `answer` gets them, likewise."""
        return x if self.scaler is None else self.scaler.inputs(x, phi, None, self._reads_values())

    def may_be_padding(self, x: Tensor, phi: Mapping[str, Tensor]) -> Tensor:
        """Which inputs that `answer` gets are zeros in the user's units, as in padding: bool `[T, M]`."""
        zero = torch.zeros_like(x[:, :1])
        zero = zero if self.scaler is None else self.scaler.inputs(zero, phi, None, check=False)
        return (x == zero).flatten(2).all(-1)

    def in_units(self, params: Tensor, phi: Mapping[str, Tensor]) -> Tensor:
        """What `answer` returned `[T, ..., P]`, in the units of y."""
        return params if self.scaler is None else self.scaler.in_units(params, phi)

    def _phi(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        phi = self.infer(support, descriptor, classes)
        return phi if classes is None else phi | {"classes": classes}

    @property
    def most_classes(self) -> int | None:
        """The largest number of classes that a task may have; None if there is no limit."""
        return self.spec.target.n_classes

    def label_set(self, support: Examples, classes: Tensor | None) -> Tensor | None:
        """The label set of each task, bool `[T, C]`: the given one, or the classes in the support.

        Raises:
            ValueError: if it has another shape or dtype, or lacks a label of the support.
        """
        if self.spec.target.n_classes is None:
            if classes is not None:
                raise ValueError(f"expected no classes for {self.spec.target!r}, got {list(classes.shape)}")
            return None
        if classes is None:
            present = membership(support.y, support.mask, self.spec.target.n_classes).any(1)
            return present | ~present.any(1, keepdim=True)
        t, most = len(support), self.most_classes
        if (
            classes.dtype != torch.bool
            or classes.ndim != 2
            or len(classes) != t
            or classes.shape[1] > (most or math.inf)
        ):
            raise ValueError(
                f"expected classes as bool [{t}, {'any C' if most is None else f'at most {most}'}], True for a class "
                f"that a task has, got {kind_of(classes)}; use .bool()"
            )
        if self._reads_values():
            if not bool(classes.any(1).all()):
                raise ValueError("expected every task to have a class, got a row of classes without True")
            inside = (support.y < classes.shape[1]) & classes.gather(1, support.y.clamp(max=classes.shape[1] - 1))
            if not bool(inside[support.mask].all()):
                raise ValueError(
                    "expected every label of the support in its task's label set, got "
                    f"{int((~inside & support.mask).sum())} outside; add those to classes"
                )
        return classes if most is None else F.pad(classes, (0, most - classes.shape[1]), value=False)

    def fit(self, tasks: EpisodeSampler) -> None:
        """Take what the learner keeps of the training tasks, before the first step; by default nothing.

        Raises:
            ValueError: if it cannot be trained on such tasks.
        """

    def penalty(self) -> Tensor | None:
        """A scalar of the parameters, such as a regulariser, added to the loss of every task; None for nothing."""
        return None

    def describe(self, episodes: Episodes) -> dict[str, Any]:
        """Facts about the learner on some tasks for a result file, as JSON values; empty by default."""
        return {}

    def forward(self, episodes: Episodes) -> Tensor:
        """Predictions `[T, M, P]` for the queries of a batch of tasks."""
        classes = episodes.label_set(self.spec)
        return self.predict(self.adapt(episodes.support, episodes.descriptor, classes), episodes.query.x)

    def check(
        self, support: Examples, descriptor: Tensor | None = None, classes: Tensor | None = None
    ) -> tuple[Examples, Tensor | None, Tensor | None]:
        """The arguments of `adapt` as tensors in the type of the weights, with zeros in the support's padding.

        Raises:
            ValueError: if they do not fit the learner's spec.
        """
        if not isinstance(support, Examples):
            raise ValueError(f"expected a support as Examples(x=..., y=...), got {shown(support)}")
        descriptor = None if descriptor is None else tensor_of("descriptor", descriptor, "[T, dz]")
        classes = None if classes is None else tensor_of("classes", classes, "[T, C]")
        x = self._as_weights("x", support.x, self.scaler is not None and self.scaler.of_x)
        y = self._as_weights("y", support.y, self.scaler is not None and self.scaler.of_y)
        if x is not support.x or y is not support.y:
            support = replace(support, x=x, y=y)
        if descriptor is not None:
            descriptor = self._as_weights("descriptor", descriptor)
        if classes is not None:
            self._as_weights("classes", classes)
        spec = self.spec
        if self._reads_values() and self.most_classes is None and classes is not None and classes.ndim == 2:
            spec = replace(spec, target=Classes(max(1, classes.shape[1])))  # labels of any number of classes
        described = replace(support, x=self.as_described(support.x))
        spec.check(described, descriptor, values=self._reads_values())
        return support.blanked(), descriptor, classes

    def as_described(self, x: Tensor) -> Tensor:
        """Inputs as the spec describes them, which are then checked; a learner that takes others too overrides this."""
        return x

    def check_episodes(self, episodes: Episodes) -> None:
        """Raise a ValueError unless the episodes are valid for this learner; reads every number."""
        support, query = (replace(part, x=self.as_described(part.x)) for part in (episodes.support, episodes.query))
        self.spec.check_episodes(replace(episodes, support=support, query=query))

    def check_query(self, phi: Phi, x: Tensor) -> tuple[Phi, Tensor]:
        """The arguments of `predict`, likewise.

        Raises:
            ValueError: if they do not fit the learner's spec.
        """
        x = tensor_of("x", x, "[T, M, *x_shape]")
        x = self._as_weights("x", x, self.scaler is not None and self.scaler.of_x)
        self.spec.check_x(self.as_described(x), values=self._reads_values())
        like = next(self.parameters(), None)
        phi = check_phi(phi, x, None if like is None else like.dtype)
        if self._reads_values():
            check_names(self, phi)
        return phi, x

    def _as_weights(self, name: str, value: Tensor, scaled: bool = False) -> Tensor:
        """A tensor on the device of the weights, floats in their type; float64 stays if it is still to be scaled."""
        like = next(self.parameters(), None)
        if like is not None and value.device != like.device:
            raise ValueError(
                f"expected {name} on {like.device}, where the learner's weights are, got {value.device}; "
                f"use .to({str(like.device)!r})"
            )
        if scaled and value.dtype == torch.float64:  # a date in seconds has too many digits for float32
            return value
        return floats_of(name, value, like.dtype if like is not None else None) if value.is_floating_point() else value

    def _reads_values(self) -> bool:
        # Reading a number waits for the device: fine when serving, too slow in a training step.
        return not self.training and not torch.compiler.is_compiling()


def within(logits: Tensor, classes: Tensor | None) -> Tensor:
    """Logits `[T, ..., C]` with the lowest number, and no gradient, outside the label sets `[T, C]`.

    In float32 at least: the lowest number of bf16 is another one in float32.
    """
    if classes is None:
        return logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    outside = ~classes.view(len(classes), *[1] * (logits.ndim - 2), classes.shape[-1])
    return logits.masked_fill(outside, torch.finfo(logits.dtype).min)
