"""An LSTM as a function of its state: one step, by its equations, and a whole sequence, by torch's fused kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

State = dict[str, Tensor]

CLOSED = 1e3  # logit of a gate at which its value is 0 or 1 exactly


def lstm_step(state: State, projected: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor]:
    """The next `hidden` and `cell` `[T, M, width]` from those of a state `[T, width]`, for each of M inputs.

    Args:
        state: with `hidden` and `cell`.
        projected: the inputs times their weights, plus biases: of the gates i, f, the candidate g and gate o, in this
            order `[T, M, 4 * width]`.
        recurrent: the weights of the hidden state, `[4 * width, width]`.
    """
    gates = projected + (state["hidden"] @ recurrent.T)[:, None]
    i, f, g, o = gates.chunk(4, dim=-1)
    cell = f.sigmoid() * state["cell"][:, None] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def lstm_advance(state: State, hidden: Tensor, cell: Tensor, real: Tensor) -> State:
    """The results of `lstm_step` (M = 1) as the state, unchanged for tasks whose `real [T]` is False."""
    new = {"hidden": hidden.squeeze(1), "cell": cell.squeeze(1)}
    return {name: torch.where(real[:, None], part, state[name]) for name, part in new.items()}


def lstm_scan(lstm: nn.LSTMCell, state: State, inputs: Tensor, real: Tensor) -> tuple[Tensor, State]:
    """The hidden states `[T, N, width]` of a sequence, and the state after it.

    Args:
        lstm: the weights.
        state: before the first step.
        inputs: `[T, N, F]`.
        real: `[T, N]`, False for padding, which comes last in every task.
    """
    # One more input marks padding, and closes the gates of the cell: what the fused kernel returns last is the cell
    # after the last real step.
    closing = [lstm.weight_ih.new_full((lstm.hidden_size, 1), logit) for logit in (-CLOSED, CLOSED, 0.0, 0.0)]
    weight = torch.cat([lstm.weight_ih, torch.cat(closing)], dim=1)
    padding = (~real)[..., None].to(inputs.dtype)
    weights = [weight, lstm.weight_hh, lstm.bias_ih, lstm.bias_hh]
    if weight.is_cuda:  # cuDNN wants them side by side, and would warn
        flat = torch.cat([part.flatten() for part in weights]).split([part.numel() for part in weights])
        weights = [side.view_as(part) for side, part in zip(flat, weights, strict=True)]
    start = [state[name][None].to(inputs.dtype) for name in ("hidden", "cell")]
    outputs, _, cell = torch.lstm(
        torch.cat([inputs, padding], dim=-1),
        start,
        weights,
        has_biases=True,
        num_layers=1,
        dropout=0.0,
        train=True,
        bidirectional=False,
        batch_first=True,
    )
    every = torch.cat([start[0][0][:, None].to(outputs.dtype), outputs], dim=1)
    last = every[torch.arange(len(real), device=real.device), real.sum(1)]
    return outputs, {"hidden": last, "cell": cell[0]}
