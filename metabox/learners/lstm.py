"""LSTM meta-learner: the recurrent learner. phi is the hidden state after the support."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.label_code import LabelCode, LabelKind
from metabox.ranges import Count
from metabox.targets import TaskSpec


class Recurrent(Learner):
    """A learner that reads the support as a sequence, one step per example, and a query as one further step.

    The input at step t is (x_t, y_{t-1}): the label is delayed by one step and zero at the first, so the network must
    hold an input until its label arrives (Hochreiter et al. 2001; Santoro et al. 2016, section 2). All queries of a
    task take their step from the same state, independently of each other.

    A subclass defines the state by `start`, `step` and `advance`, and creates `readout`, from a step's outputs to
    `self.labels.out_size` scores. `self.in_size` is the width of a step's input.
    """

    ordered = True
    readout: nn.Module

    def __init__(self, spec: TaskSpec, backbone: MakeBackbone | None = None, labels: LabelKind = "one-hot") -> None:
        super().__init__(spec)
        self.embed = Embedding(spec, backbone, causal=True)
        self.labels = LabelCode(spec, labels)
        self.in_size = self.embed.out_features + self.labels.in_size

    @abstractmethod
    def start(self, like: Tensor) -> Phi:
        """The state before the first step, of the dtype and device of `like [T, ...]`."""

    @abstractmethod
    def step(self, state: Phi, inputs: Tensor) -> tuple[Tensor, Any]:
        """One step for each of the inputs `[T, M, in_size]`, all from the same state.

        Returns the outputs `[T, M, O]`, and what `advance` needs from the step.
        """

    @abstractmethod
    def advance(self, state: Phi, taken: Any, real: Tensor) -> Phi:
        """The state after a step with one input (M = 1), unchanged for tasks whose `real [T]` is False."""

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: the state; the last label, not yet read, `label [T, L]`; the task statistics."""
        return self._run(support, descriptor)[0]

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        outputs, _ = self.step(phi, _with_label(self.embed(x, phi), phi["label"]))
        return self.labels.decode(self.readout(outputs))

    def unroll(self, examples: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Tensor:
        return self._run(examples, descriptor)[1]

    def _run(self, sequence: Examples, descriptor: Tensor | None) -> tuple[Phi, Tensor]:
        """phi after the sequence, and the predictions at its steps `[T, N, P]`."""
        features, known = self.embed.adapt(sequence, descriptor)
        labels = self.labels.encode(sequence).to(features.dtype)
        state, label = self.start(features), features.new_zeros(len(features), self.labels.in_size)
        steps = []
        for i in range(features.shape[1]):
            outputs, taken = self.step(state, _with_label(features[:, i : i + 1], label))
            steps.append(outputs)
            # Padding, anywhere in the sequence, changes neither the state nor the unread label.
            real = sequence.mask[:, i]
            state, label = self.advance(state, taken, real), torch.where(real[:, None], labels[:, i], label)
        phi = known | state | {"label": label}
        if not steps:
            return phi, features.new_zeros(len(features), 0, self.n_params)
        return phi, self.labels.decode(self.readout(torch.cat(steps, dim=1)))


class LSTM(Recurrent):
    """LSTM that reads the support as a sequence (Hochreiter et al. 2001; the baseline of Santoro et al. 2016).

    The input at step t is (x_t, y_{t-1}): the label is delayed by one step. A query is the step after the last support
    example; all queries of a task take that step from the same state.

    Deviations: inputs pass through a backbone, where Hochreiter et al. used the raw vector and Santoro et
    al. the flattened image (the backbone `Flatten`).

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: units of the LSTM, 200 in Santoro et al.
        labels: how classes are encoded, "one-hot" or "strings" of five characters (see `LabelCode`).
    """

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 200,
        labels: LabelKind = "one-hot",
    ) -> None:
        super().__init__(spec, backbone, labels)
        self.cell = nn.LSTMCell(self.in_size, width)
        self.readout = nn.Linear(width, self.labels.out_size)

    def start(self, like: Tensor) -> Phi:
        """The state: `hidden` and `cell [T, width]`, zeros."""
        zeros = like.new_zeros(len(like), self.cell.hidden_size)
        return {"hidden": zeros, "cell": zeros}

    def step(self, state: Phi, inputs: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, cell = lstm_step(self.cell, state, inputs)
        return hidden, (hidden, cell)

    def advance(self, state: Phi, taken: tuple[Tensor, Tensor], real: Tensor) -> Phi:
        return lstm_advance(state, *taken, real)


def lstm_step(lstm: nn.LSTMCell, state: Phi, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The next `hidden` and `cell` `[T, M, width]`, from those of the state `[T, width]` and inputs `[T, M, F]`."""
    t, m = inputs.shape[:2]
    hidden, cell = (state[name][:, None].expand(-1, m, -1).flatten(0, 1) for name in ("hidden", "cell"))
    hidden, cell = lstm(inputs.flatten(0, 1), (hidden, cell))
    return hidden.view(t, m, -1), cell.view(t, m, -1)


def lstm_advance(state: Phi, hidden: Tensor, cell: Tensor, real: Tensor) -> Phi:
    """The results of `lstm_step` (M = 1) as the state, unchanged for tasks whose `real [T]` is False."""
    new = {"hidden": hidden.squeeze(1), "cell": cell.squeeze(1)}
    return {name: torch.where(real[:, None], part, state[name]) for name, part in new.items()}


def _with_label(features: Tensor, label: Tensor) -> Tensor:
    """`[T, M, F]` and `[T, L]` -> `[T, M, F + L]`."""
    return torch.cat([features, label[:, None].expand(-1, features.shape[1], -1)], dim=-1)
