"""LSTM meta-learner: the recurrent learner. phi is the hidden state after the support."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metabox.episodes import Examples, TaskSpec
from metabox.learners.base import Learner, Phi
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding, encode_labels


class LSTM(Learner):
    """LSTM that reads the support as a sequence (Hochreiter et al. 2001; the baseline of Santoro et al. 2016).

    The input at step t is (x_t, y_{t-1}): the label comes one step late and is zero at the first step, so
    the network must hold an input until its label arrives. A query is the step after the last support
    example; all queries of a task take that step from the same state.

    Deviations: inputs pass through a backbone, where Hochreiter et al. used the raw vector and Santoro et
    al. the flattened image.

    Args:
        spec: the tasks.
        n_params: natural parameters per query point.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: units of the LSTM, 200 in Santoro et al.
    """

    ordered = True

    def __init__(
        self, spec: TaskSpec, n_params: int, *, backbone: MakeBackbone | None = None, width: int = 200
    ) -> None:
        super().__init__(spec, n_params)
        self.embed = Embedding(spec, backbone, causal=True)
        self.cell = nn.LSTMCell(self.embed.out_features + spec.target_size, width)
        self.readout = nn.Linear(width, n_params)

    def adapt(self, support: Examples, descriptor: Tensor | None = None) -> Phi:
        """phi: `hidden`, `cell [T, width]`, the label still to come `label [T, L]`; what the embedding knows of the task."""
        return self._run(support, descriptor)[0]

    def predict(self, phi: Phi, x: Tensor) -> Tensor:
        self.check_x(phi, x)
        t, m = x.shape[:2]
        inputs = _beside(self.embed(x, phi), phi["label"])
        state = tuple(phi[name][:, None].expand(-1, m, -1).reshape(t * m, -1) for name in ("hidden", "cell"))
        hidden, _ = self.cell(inputs.flatten(0, 1), state)
        return self.readout(hidden).view(t, m, -1)

    def stream(self, examples: Examples, descriptor: Tensor | None = None) -> Tensor:
        return self._run(examples, descriptor)[1]

    def _run(self, sequence: Examples, descriptor: Tensor | None) -> tuple[Phi, Tensor]:
        """The state after the sequence, and the prediction at each of its steps `[T, N, P]`."""
        sequence = self.check(sequence, descriptor)
        t, n = sequence.mask.shape
        features, phi = self.embed.adapt(sequence, descriptor)
        labels = encode_labels(self.spec, sequence).to(features.dtype)
        hidden = cell = features.new_zeros(t, self.cell.hidden_size)
        label = features.new_zeros(t, self.spec.target_size)
        outputs = []
        for i in range(n):
            inputs = _beside(features[:, i : i + 1], label).squeeze(1)
            new_hidden, new_cell = self.cell(inputs, (hidden, cell))
            outputs.append(self.readout(new_hidden))
            # Padding leaves the state as it was, wherever in the sequence it stands.
            real = sequence.mask[:, i, None]
            hidden, cell = torch.where(real, new_hidden, hidden), torch.where(real, new_cell, cell)
            label = torch.where(real, labels[:, i], label)
        phi |= {"hidden": hidden, "cell": cell, "label": label}
        return phi, torch.stack(outputs, 1) if outputs else features.new_zeros(t, 0, self.n_params)


def _beside(features: Tensor, label: Tensor) -> Tensor:
    """`[T, M, F]` and `[T, L]` -> `[T, M, F + L]`."""
    return torch.cat([features, label[:, None].expand(-1, features.shape[1], -1)], dim=-1)
