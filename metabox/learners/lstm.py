"""LSTM meta-learner: the recurrent learner. phi is the hidden state after the support."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from metabox.learners.base import Phi
from metabox.learners.method import Method
from metabox.learners.recurrent import Recurrent
from metabox.nn.backbones import MakeBackbone
from metabox.nn.label_code import LabelKind
from metabox.nn.lstm import lstm_advance, lstm_scan, lstm_step
from metabox.ranges import Count
from metabox.targets import TaskSpec


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
        labels: how labels are read, "one-hot", as "strings" of five characters, or in the "same-step" (`LabelCode`).
        truncate: steps after which the gradient is cut; None for the whole sequence (see `Recurrent`).
    """

    method = Method(
        adapt=(
            ("delay labels", r"u_n = [\known_n, y_{n-1}]"),
            ("one step per example", r"(h_n, c_n) = \net{LSTM}\big(u_n, (h_{n-1}, c_{n-1})\big)"),
            ("keep the state", r"\task = (h_N, c_N, y_N)"),
        ),
        predict=(
            (
                "one further step",
                r"(h, c) = \net{LSTM}\big([\known, y_N], (h_N, c_N)\big), \quad (h_N, c_N, y_N) = \task",
            ),
            ("parameters", r"p(y \mid x, \task) = p(y; W h)"),
        ),
        cost=("N", "M"),
        parallel=False,
        exports=False,
    )

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 200,
        labels: LabelKind = "one-hot",
        truncate: Count | None = None,
    ) -> None:
        super().__init__(spec, backbone, labels, truncate)
        self.cell = nn.LSTMCell(self.in_size, width)
        self.readout = nn.Linear(width, self.labels.out_size)

    def start(self, like: Tensor) -> Phi:
        """The state: `hidden` and `cell [T, width]`, zeros."""
        zeros = like.new_zeros(len(like), self.cell.hidden_size)
        return {"hidden": zeros, "cell": zeros}

    def project(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.cell.weight_ih, self.cell.bias_ih + self.cell.bias_hh)

    def step(self, state: Phi, projected: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, cell = lstm_step(state, projected, self.cell.weight_hh)
        return hidden, (hidden, cell)

    def advance(self, state: Phi, taken: tuple[Tensor, Tensor], real: Tensor) -> Phi:
        return lstm_advance(state, *taken, real)

    def fast_scan(self, state: Phi, inputs: Tensor, real: Tensor) -> tuple[Tensor, Phi]:
        return lstm_scan(self.cell, state, inputs, real)
