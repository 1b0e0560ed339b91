"""The base of recurrent learners: the support is a sequence, one step per example, and phi is the state after it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.nn.backbones import MakeBackbone
from metabox.nn.causal import real_first
from metabox.nn.embedding import Embedding
from metabox.nn.fast_path import fast_path
from metabox.nn.label_code import LabelCode, LabelKind
from metabox.ranges import Count
from metabox.targets import TaskSpec


class Recurrent(Learner):
    """A learner that reads the support as a sequence, one step per example, and a query as one further step.

    The input at step t is (x_t, y_{t-1}): the label is delayed by one step and zero at the first, so the network must
    hold an input until its label arrives (Hochreiter et al. 2001; Santoro et al. 2016, section 2). With `labels:
    same-step` it is (x_t, y_t) for the support and (x, 0) for a query, and a step of `stream` is two: that of a query,
    whose state is not kept, and that of the support. All queries of a task take their step from the same state,
    independently of each other.

    A subclass defines the state by `start`, `step` and `advance`, and creates `readout`, from a step's outputs to
    `self.labels.out_size` scores. `self.in_size` is the width of a step's input. What a step computes of its input
    alone belongs in `project`, which is applied to a whole sequence at once. `scan` is the sequence step by step; in
    training, a subclass may replace it by an equal `fast_scan`.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        labels: how labels are read, "one-hot", as "strings" of five characters, or in the "same-step" (`LabelCode`).
        truncate: number of steps after which the gradient is cut (truncated backpropagation through time): the state
            is carried on, and no gradient flows through it. In training, what so many steps keep for the backward pass
            is then all that is in memory, since they are computed again there. None for the whole sequence.
    """

    ordered = True
    continues = True
    readout: nn.Module

    def __init__(
        self,
        spec: TaskSpec,
        backbone: MakeBackbone | None = None,
        labels: LabelKind = "one-hot",
        truncate: Count | None = None,
    ) -> None:
        super().__init__(spec)
        self.embed = Embedding(spec, backbone, causal=True)
        self.labels = LabelCode(spec, labels)
        self.in_size = self.embed.out_features + self.labels.in_size
        self.truncate = truncate

    @abstractmethod
    def start(self, like: Tensor) -> Phi:
        """The state before the first step, of the dtype and device of `like [T, ...]`."""

    def project(self, inputs: Tensor) -> Tensor:
        """What steps compute of their inputs `[T, N, in_size]` alone: `[T, N, F]`; by default the inputs themselves."""
        return inputs

    @abstractmethod
    def step(self, state: Phi, projected: Tensor) -> tuple[Tensor, Any]:
        """One step for each of M projected inputs `[T, M, F]`, all from the same state.

        Returns the outputs `[T, M, O]`, and what `advance` needs from the step.
        """

    @abstractmethod
    def advance(self, state: Phi, taken: Any, real: Tensor) -> Phi:
        """The state after a step with one input (M = 1), unchanged for tasks whose `real [T]` is False."""

    def scan(self, state: Phi, inputs: Tensor, real: Tensor) -> tuple[Tensor, Phi]:
        """The outputs `[T, N, O]` of N >= 1 steps one after the other, and the state after them.

        Args:
            state: before the first step.
            inputs: `[T, N, in_size]`.
            real: `[T, N]`, False for padding, which comes last in every task.
        """
        outputs, projected = [], self.project(inputs)
        for i in range(inputs.shape[1]):
            output, taken = self.step(state, projected[:, i : i + 1])
            outputs.append(output)
            state = self.advance(state, taken, real[:, i])
        return torch.cat(outputs, dim=1), state

    fast_scan = scan
    """The same, by fewer and larger operations; its own gradient need not be differentiable."""

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: the state; the label that a query's step reads, `label [T, L]`; the task statistics.

        That label is the last one, not yet read, or zeros with `labels: same-step`.
        """
        return self._run(support, descriptor, streams=False)[0]

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        features = self.embed(x, phi)
        label = phi["label"][:, None].expand(-1, features.shape[1], -1)
        outputs, _ = self.step(phi, self.project(torch.cat([features, label], dim=-1)))
        return self.labels.decode(self.readout(outputs))

    def unroll(self, examples: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Tensor:
        return self._run(examples, descriptor)[1]

    def infer_from(self, phi: Phi, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        return self._run(support, descriptor, phi, streams=False)[0]

    def unroll_from(self, phi: Phi, examples: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Tensor:
        return self._run(examples, descriptor, phi)[1]

    def _run(
        self, sequence: Examples, descriptor: Tensor | None, before: Phi | None = None, streams: bool = True
    ) -> tuple[Phi, Tensor]:
        """phi after the sequence, from that before it, and if it `streams` the predictions at its steps `[T, N, P]`."""
        # Padding, anywhere in the sequence, comes last: it changes neither the state nor the unread label.
        order = real_first(sequence.mask)[..., 0]
        task = torch.arange(len(order), device=order.device)
        sequence = Examples(
            x=sequence.x[task[:, None], order],
            y=sequence.y[task[:, None], order],
            mask=sequence.mask.take_along_dim(order, dim=1),
        )
        features, known = self.embed.adapt(sequence, descriptor)
        labels = self.labels.encode(sequence).to(features.dtype)
        state, unread = self.start(features), features.new_zeros(len(features), self.labels.in_size)
        if before is not None:
            state, unread = {name: before[name] for name in state}, before["label"].to(features.dtype)
        late = torch.cat([unread[:, None], labels], dim=1)  # [T, N + 1, L]
        n, asks = order.shape[1], self.labels.kind == "same-step"
        phi = known | {"label": unread if asks else late[task, sequence.mask.sum(1)]}
        if not n:
            return phi | state, features.new_zeros(len(features), 0, self.n_params)
        inputs, outputs = torch.cat([features, labels if asks else late[:, :n]], dim=-1), []
        queries = torch.cat([features, torch.zeros_like(labels)], dim=-1) if asks and streams else None
        for i in range(0, n, self.truncate or n):
            some = slice(i, i + (self.truncate or n))
            if i:
                state = {name: part.detach() for name, part in state.items()}
            piece = state, inputs[:, some], sequence.mask[:, some]
            if queries is None:
                output, state = self._scan(*piece)
            elif self.truncate is None or not torch.is_grad_enabled():
                output, state = self._asked(queries[:, some], *piece)
            else:  # one piece at a time is in memory
                output, state = checkpoint(self._asked, queries[:, some], *piece, use_reentrant=False)
            outputs.append(output)
        scores = self.readout(torch.cat(outputs, dim=1)).take_along_dim(order.argsort(dim=1)[..., None], dim=1)
        return phi | state, self.labels.decode(scores)

    def _scan(self, state: Phi, inputs: Tensor, real: Tensor) -> tuple[Tensor, Phi]:
        # A compiler makes its own fast path, from the definition.
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or type(self).fast_scan is Recurrent.scan:
            return self.scan(state, inputs, real)
        # Of a sequence that is cut into pieces, one at a time is in memory.
        return fast_path(self, state, inputs, real, again=self.truncate is not None)

    def _asked(self, queries: Tensor, state: Phi, inputs: Tensor, real: Tensor) -> tuple[Tensor, Phi]:
        """The outputs of each query's step, which is not kept, from the state before its input; the last state."""
        outputs, asked, given = [], self.project(queries), self.project(inputs)
        for i in range(inputs.shape[1]):
            outputs.append(self.step(state, asked[:, i : i + 1])[0])
            state = self.advance(state, self.step(state, given[:, i : i + 1])[1], real[:, i])
        return torch.cat(outputs, dim=1), state
