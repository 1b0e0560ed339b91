"""Memory-augmented neural network: phi is the memory, its usage, and the controller's state."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.learners.base import Phi
from metabox.learners.method import Method
from metabox.learners.recurrent import Recurrent
from metabox.nn.backbones import MakeBackbone
from metabox.nn.label_code import LabelKind
from metabox.nn.lstm import lstm_advance, lstm_step
from metabox.nn.memory import Access, BeginKind, GateKind, LeastUsedKind, LRUMemory, ReadKind, WrittenKind
from metabox.nn.memory_scan import memory_scan
from metabox.ranges import Count, Positive, Share
from metabox.targets import TaskSpec


class MANN(Recurrent):
    """Memory-augmented neural network (Santoro et al. 2016, "Meta-Learning with Memory-Augmented Neural Networks").

    An LSTM controller reads (x_t, y_{t-1}) and r_{t-1}, which it read from memory one step before. Its state h_t gives
    the keys of a memory with least recently used access (equations 2 to 8, in `LRUMemory`), and (h_t, r_t) the
    prediction.

    A query is the step after the last support example. Each writes before it reads; each query of a task writes as if
    to its own copy of the memory, in one pass (see `LRUMemory`).

    Read literally, the equations write before they read (equation 4 reads M_t, which equation 8 makes), write every
    head's key to all of the least used rows (equation 6), and have one alpha for all steps (equation 7). This
    implementation does the same by default. Public code chooses otherwise: snowkylin/ntm has `gate: emitted`,
    `written: separate`, `reads: weights-before` and `begins: first-row`; vineetjain96/one-shot-mann `gate: emitted`,
    `least_used: own` and `begins: first-row`. `benchmarks/streams.py` compares them.

    Unspecified in the paper, and chosen here: keys are linear in h_t, then tanh; each head has its own key, read
    weights and alpha (initially 0); the memory and all weights start at zero; among equally used rows the first counts
    as the least used; an empty row has cosine 0 to every key.

    Deviations: inputs pass through a backbone, where the paper has the flattened image (the backbone `Flatten`).

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: units of the controller.
        rows: rows of the memory.
        size: numbers in a row.
        heads: read heads.
        decay: gamma of the usage weights (equation 5).
        gate: where alpha of equation 7 comes from: "learned", or "emitted" by the controller at each step.
        reads: which memory is read, "after" the step wrote to it, "before", or "weights-before" (see `LRUMemory`).
        written: "keys" are written, or a "separate" vector.
        least_used: where a head writes what does not go to the row that it read: to all "shared" least used rows, or to
            one of its "own".
        sharpness: initial value of a learned factor on the cosine; None for no factor.
        begins: the memory before the first step, "zeros" or "first-row" (see `LRUMemory`).
        labels: how labels are read, "one-hot", as "strings" of five characters, or in the "same-step" (`LabelCode`).
        truncate: steps after which the gradient is cut; None for the whole sequence (see `Recurrent`).
    """

    method = Method(
        adapt=(
            ("delay labels", r"u_n = [\known_n, y_{n-1}]"),
            ("controller", r"h_n = \net{LSTM}\big([u_n, r_{n-1}], h_{n-1}\big), \quad k_n = \tanh(W_k h_n)"),
            (
                "write to unused rows",
                r"M_n = M_{n-1} + w_n^{\mathrm{w}} k_n^\top, \quad w_n^{\mathrm{w}} = \sigma(\alpha)\, "
                r"w_{n-1}^{\mathrm{r}} + (1 - \sigma(\alpha))\, w_{n-1}^{\mathrm{lu}}",
            ),
            (
                "read by cosine",
                r"r_n = M_n^\top w_n^{\mathrm{r}}, \quad w_n^{\mathrm{r}} = \softmax\big(\cos(k_n, M_n)\big)",
            ),
            ("keep memory, state", r"\task = (M_N, w_N^{\mathrm{u}}, w_N^{\mathrm{r}}, h_N, r_N, y_N)"),
        ),
        predict=(
            ("one further step", r"(h, r) = \net{step}\big([\known, y_N]; \task\big)"),
            ("parameters", r"p(y \mid x, \task) = p\big(y; W[h, r]\big)"),
        ),
        cost=("N", "M"),
        kin={"LSTM": "a memory outside the network, written to the row that was used least recently"},
        parallel=False,
        exports=False,
    )

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 200,
        rows: Count = 128,
        size: Count = 40,
        heads: Count = 4,
        decay: Share = 0.95,
        gate: GateKind = "learned",
        reads: ReadKind = "after",
        written: WrittenKind = "keys",
        least_used: LeastUsedKind = "shared",
        sharpness: Positive | None = None,
        begins: BeginKind = "zeros",
        labels: LabelKind = "one-hot",
        truncate: Count | None = None,
    ) -> None:
        super().__init__(spec, backbone, labels, truncate)
        self.memory = LRUMemory(width, rows, size, heads, decay, gate, reads, written, least_used, sharpness, begins)
        self.cell = nn.LSTMCell(self.in_size + self.memory.out_features, width)
        self.readout = nn.Linear(width + self.memory.out_features, self.labels.out_size)

    def start(self, like: Tensor) -> Phi:
        """The state: `hidden` and `cell [T, width]`, zeros, and that of `LRUMemory`."""
        zeros = like.new_zeros(len(like), self.cell.hidden_size)
        return {"hidden": zeros, "cell": zeros, **self.memory.start(like)}

    def project(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.cell.weight_ih[:, : self.in_size], self.cell.bias_ih + self.cell.bias_hh)

    def step(self, state: Phi, projected: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Access]]:
        read = F.linear(state["vectors"], self.cell.weight_ih[:, self.in_size :])
        hidden, cell = lstm_step(state, projected + read[:, None], self.cell.weight_hh)
        access = self.memory(state, hidden)
        return torch.cat([hidden, access.vectors], dim=-1), (hidden, cell, access)

    def advance(self, state: Phi, taken: tuple[Tensor, Tensor, Access], real: Tensor) -> Phi:
        hidden, cell, access = taken
        return lstm_advance(state, hidden, cell, real) | self.memory.advance(state, access, real)

    def fast_scan(self, state: Phi, inputs: Tensor, real: Tensor) -> tuple[Tensor, Phi]:
        by_input, by_vectors = self.cell.weight_ih.split([self.in_size, self.memory.out_features], dim=1)
        steps = inputs.transpose(0, 1).contiguous()
        projected = F.linear(steps, by_input, self.cell.bias_ih + self.cell.bias_hh)
        recurrent = torch.cat([self.cell.weight_hh, by_vectors], dim=1)
        outputs, state = memory_scan(self.memory, state, projected, recurrent, real)
        return outputs.transpose(0, 1), state
