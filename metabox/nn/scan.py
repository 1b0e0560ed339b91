"""Recurrences whose state is a matrix, in chunks: within a chunk by matrix products, from chunk to chunk step by step.

Each recurrence has three functions: `..._scan` for a whole sequence; `..._read` for M steps, all from the same state,
none of which copies it; `..._write` for the state after one step. They are equal to the equations in their docstrings.

Letters: T tasks, H heads, N steps, K size of a key, V size of a value. Gates are `[T, H, N]`, in logarithms if they
decay. A step of padding has decay 1 (logarithm 0) and writes nothing. Numbers are in float32 at least.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 32
"""Steps of a chunk: the products within it grow with its square, the number of chunks shrinks."""

SMALLEST = 1e-6
"""Added to what an output is divided by."""


def linear_scan(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Linear attention with decay: S <- e^decay S + k v^T; o = S^T q.

    Args:
        q: queries `[T, H, N, K]`.
        k: keys `[T, H, N, K]`.
        v: values `[T, H, N, V]`.
        decay: `[T, H, N]`, 0 at most.
        state: S before the first step, `[T, H, K, V]`.
        chunk: steps of a chunk.

    Returns:
        The outputs `[T, H, N, V]` and S after the last step.
    """
    n = q.shape[2]
    q, k, v, decay = _chunks(chunk, q, k, v, decay)
    share = segments(decay).exp()
    from_start = decay.cumsum(-1).exp()[..., None]
    inside = (q @ k.mT * share) @ v
    written = (k * share[..., -1, :, None]).mT @ v
    before = []
    for kept, new in zip(from_start[..., -1:, :].unbind(2), written.unbind(2), strict=True):
        before.append(state)
        state = kept * state + new
    outputs = inside + (q * from_start) @ torch.stack(before, dim=2)
    return _steps(outputs, n), state


def linear_read(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor) -> Tensor:
    """The outputs `[T, H, M, V]` of M steps from one state, each of which reads what it has written itself."""
    return decay.exp()[..., None] * (q @ state) + (q * k).sum(-1, keepdim=True) * v


def linear_write(k: Tensor, v: Tensor, decay: Tensor, state: Tensor) -> Tensor:
    """The state after one step (N = 1)."""
    return decay.exp()[..., None] * state + k.mT @ v


def delta_scan(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """The gated delta rule: S <- e^decay S; u = beta (v - S^T k); S <- S + k u^T; o = S^T q.

    The u of a chunk solve a triangular system (Yang et al. 2024): with G the decay since the chunk's start,
    (I + beta_i k_i.k_j e^(G_i - G_j) for j < i) U = beta V - beta e^G K S.

    Args:
        q: queries `[T, H, N, K]`.
        k: keys `[T, H, N, K]`.
        v: values `[T, H, N, V]`.
        decay: `[T, H, N]`, 0 at most.
        beta: how much of the error is corrected, `[T, H, N]`.
        state: S before the first step, `[T, H, K, V]`.
        chunk: steps of a chunk.

    Returns:
        The outputs `[T, H, N, V]` and S after the last step.
    """
    n, size = q.shape[2], v.shape[3]
    q, k, v, decay, beta = _chunks(chunk, q, k, v, decay, beta)
    share, beta = segments(decay).exp(), beta[..., None]
    from_start = decay.cumsum(-1).exp()[..., None]
    system = (beta * (k @ k.mT) * share).tril(-1)
    wanted = torch.cat([beta * v, beta * from_start * k], dim=-1)
    # Not by powers of the system: alike keys make them many orders of magnitude larger than their sum.
    solved = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
    parts = (*solved.split([size, k.shape[-1]], dim=-1), q * from_start, q @ k.mT * share)
    at_end = ((k * share[..., -1, :, None]).mT, from_start[..., -1:, :])
    outputs = []
    for own, known, query, inside, key, kept in zip(*(part.unbind(2) for part in (*parts, *at_end)), strict=True):
        u = own - known @ state
        outputs.append(query @ state + inside @ u)
        state = kept * state + key @ u
    return _steps(torch.stack(outputs, dim=2), n), state


def delta_read(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor) -> Tensor:
    """The outputs `[T, H, M, V]` of M steps from one state, each of which reads what it has written itself."""
    kept = decay.exp()[..., None]
    u = beta[..., None] * (v - kept * (k @ state))
    return kept * (q @ state) + (q * k).sum(-1, keepdim=True) * u


def delta_write(k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor) -> Tensor:
    """The state after one step (N = 1)."""
    state = decay.exp()[..., None] * state
    return state + k.mT @ (beta[..., None] * (v - k @ state))


def exponential_scan(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, gain: Tensor, state: Tensor, top: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor, Tensor]:
    """Linear attention with an exponential gate: C <- e^decay C + e^gain k v^T, n alike with v = 1; o = C^T q / n.q.

    In the paper (Beck et al. 2024) C and n are kept times e^-m, where m <- max(decay + m, gain), and the divisor is
    max(abs(n.q), e^-m), to which 1e-6 is added.

    Args:
        q: queries `[T, H, N, K]`.
        k: keys `[T, H, N, K]`.
        v: values `[T, H, N, V]`.
        decay: `[T, H, N]`, 0 at most.
        gain: `[T, H, N]`, of any size; -inf writes nothing.
        state: C and n before the first step, `[T, H, K, V + 1]`, times e^-m.
        top: m `[T, H]`.
        chunk: steps of a chunk.

    Returns:
        The outputs `[T, H, N, V]`, and the state and m after the last step.
    """
    n = q.shape[2]
    # Padding to a whole chunk writes nothing either.
    q, k, v, decay, gain = _chunks(chunk, q, k, _with_ones(v), decay, gain, last=-math.inf)
    logs, from_start, scores = segments(decay) + gain[..., None, :], decay.cumsum(-1), q @ k.mT
    outputs = []
    for query, key, value, log, earlier, score in zip(
        *(part.unbind(2) for part in (q, k, v, logs, from_start, scores)), strict=True
    ):
        earlier = earlier + top[..., None]
        tops = torch.maximum(earlier, log.amax(-1))  # m of every step
        kept, written = (earlier - tops).exp()[..., None], (log - tops[..., None]).exp()
        outputs.append(_normalised(kept * (query @ state) + (score * written) @ value, tops))
        state = kept[..., -1:, :] * state + (key * written[..., -1, :, None]).mT @ value
        top = tops[..., -1]
    return _steps(torch.stack(outputs, dim=2), n), state, top


def exponential_read(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, gain: Tensor, state: Tensor, top: Tensor
) -> Tensor:
    """The outputs `[T, H, M, V]` of M steps from one state, each of which reads what it has written itself."""
    tops = torch.maximum(decay + top[..., None], gain)
    kept, written = (decay + top[..., None] - tops).exp()[..., None], (gain - tops).exp()[..., None]
    return _normalised(kept * (q @ state) + (q * k).sum(-1, keepdim=True) * written * _with_ones(v), tops)


def exponential_write(
    k: Tensor, v: Tensor, decay: Tensor, gain: Tensor, state: Tensor, top: Tensor
) -> tuple[Tensor, Tensor]:
    """The state and m after one step (N = 1)."""
    tops = torch.maximum(decay + top[..., None], gain)
    kept, written = (decay + top[..., None] - tops).exp()[..., None], (gain - tops).exp()[..., None]
    return kept * state + (written * k).mT @ _with_ones(v), tops[..., 0]


def segments(logs: Tensor) -> Tensor:
    """Sums of every segment: `[..., C]` to `[..., C, C]`, the sum over steps j + 1 to i at (i, j), -inf for j > i."""
    c = logs.shape[-1]
    lower = torch.ones(c, c, dtype=torch.bool, device=logs.device).tril()
    # Sums of what is in the segment, not differences of sums since the start, which cancel if the decay is strong; and
    # -inf before exp, since inf * 0 in its gradient is NaN.
    each = logs[..., None].expand(*logs.shape, c).masked_fill(~lower.tril(-1), 0.0)
    return each.cumsum(-2).masked_fill(~lower, -math.inf)


def _chunks(chunk: int, *parts: Tensor, last: float = 0.0) -> list[Tensor]:
    """Parts `[T, H, N, ...]` as `[T, H, Z, C, ...]`, padded by zeros, the last part by `last`; Z is 1 at least."""
    n = parts[0].shape[2]
    chunk = max(1, min(chunk, n))
    z = max(1, math.ceil(n / chunk))
    more, ends = z * chunk - n, [0.0] * (len(parts) - 1) + [last]
    padded = [
        F.pad(part, (0, 0) * (part.ndim - 3) + (0, more), value=end) for part, end in zip(parts, ends, strict=True)
    ]
    return [part.unflatten(2, (z, chunk)) for part in padded]


def _steps(outputs: Tensor, n: int) -> Tensor:
    """`[T, H, Z, C, V]` back to `[T, H, N, V]`."""
    return outputs.flatten(2, 3)[:, :, :n]


def _with_ones(v: Tensor) -> Tensor:
    """Values and a 1, whose sum is the divisor: `[..., V + 1]`."""
    return F.pad(v, (0, 1), value=1.0)


def _normalised(sums: Tensor, tops: Tensor) -> Tensor:
    """C^T q / (max(abs(n.q), e^-m) + 1e-6), all times e^m if m is negative: e^-m may be infinite, its gradient NaN."""
    low = tops.clamp(max=0)
    scale, least = low.exp()[..., None], (low - tops).exp()[..., None]
    return sums[..., :-1] * scale / (torch.maximum(sums[..., -1:].abs() * scale, least) + SMALLEST * scale)
