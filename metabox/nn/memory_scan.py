"""An LSTM with a memory (`LRUMemory`) over a whole sequence as one function, with a backward pass of its own.

It does what `MANN.step` and `MANN.advance` do one step after the other, with fewer and larger operations: each step
keeps what its derivatives need, and the gradients of the weights are formed once, over all steps.

Letters: n steps, b tasks, W units, H heads, R rows of S numbers. Equations are those of Santoro et al. 2016. A buffer
has the step in front; those of n + 1 steps begin with the state before the first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metabox.nn.memory import EMPTY, LRUMemory

State = dict[str, Tensor]


def memory_scan(
    memory: LRUMemory, state: State, projected: Tensor, recurrent: Tensor, real: Tensor
) -> tuple[Tensor, State]:
    """The outputs (h_t, r_t) `[T, N, W + H * S]` of a sequence, and the state after it.

    Args:
        memory: its weights and options.
        state: before the first step: that of the memory, and `hidden` and `cell [T, W]`.
        projected: the inputs times their weights, plus biases, for `lstm_step`: `[T, N, 4 * W]`.
        recurrent: the weights of (h_{t-1}, r_{t-1}), `[4 * W, W + H * S]`.
        real: `[T, N]`, False for padding, which comes last in every task.
    """
    emit, bias = _emitted(memory)
    with torch.autocast(projected.device.type, enabled=False):
        dtype = state["memory"].dtype
        floats = (projected, recurrent, emit, bias, *(state[name] for name in ("hidden", "cell")))
        projected, recurrent, emit, bias, hidden, cell = (part.to(dtype) for part in floats)
        first = torch.cat([hidden, state["vectors"]], dim=1)
        count = real.sum(1)
        options = (memory.decay, memory.read_first)
        start = (first, cell, state["read"], state["memory"], state["usage"])
        outputs, cells, reads, rows, usage = _Scan.apply(
            options, projected.transpose(0, 1), recurrent, emit, bias, *start, count
        )
        task = torch.arange(len(real), device=real.device)
        last, cell, read = (
            torch.cat([before[None], after])[count, task]
            for before, after in ((first, outputs), (cell, cells), (state["read"], reads))
        )
        hidden, vectors = last.split([hidden.shape[1], memory.out_features], dim=1)
        after = {"memory": rows, "square": rows.square().sum(-1), "usage": usage, "read": read, "vectors": vectors}
    return outputs.transpose(0, 1), {"hidden": hidden, "cell": cell, **after}


def _emitted(memory: LRUMemory) -> tuple[Tensor, Tensor]:
    """Weight and bias of the map from h_t to the keys before tanh, and to the heads' alpha."""
    if memory.emit_alpha is not None:
        layers = (memory.key, memory.emit_alpha)
        return torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    assert memory.alpha is not None  # of the same value at every step: the bias alone
    weight = torch.cat([memory.key.weight, memory.key.weight.new_zeros(memory.heads, memory.key.in_features)])
    return weight, torch.cat([memory.key.bias, memory.alpha])


class _Scan(torch.autograd.Function):
    """All steps. Of the states it returns all but the memory and its usage, which are those after `count` steps."""

    @staticmethod
    def forward(
        ctx: Any,
        options: tuple[float, bool],
        projected: Tensor,  # [n, b, 4W]
        recurrent: Tensor,  # [4W, W + HS]
        emit: Tensor,  # [HS + H, W]
        bias: Tensor,  # [HS + H]
        first: Tensor,  # [b, W + HS], h_0 and r_0
        cell: Tensor,  # [b, W]
        read: Tensor,  # [b, H, R]
        memory: Tensor,  # [b, R, S]
        usage: Tensor,  # [b, R]
        count: Tensor,  # [b], real steps
    ) -> tuple[Tensor, ...]:
        decay, read_first = options
        n, (b, heads, rows), size, width = len(projected), read.shape, memory.shape[-1], cell.shape[-1]

        def buffer(steps: int, *shape: int) -> Tensor:
            return projected.new_empty(steps, b, *shape)

        states, cells, gates = buffer(n + 1, first.shape[1]), buffer(n + 1, width), buffer(n, 4 * width)
        keys, shares = buffer(n, heads, size), buffer(n, heads)
        reads, writes = buffer(n + 1, heads, rows), buffer(n, heads, rows)
        memories, usages = buffer(n + 1, rows, size), buffer(n + 1, rows)
        products, squares = buffer(n, heads, rows), buffer(n, rows)
        least = torch.empty(n, b, heads, dtype=torch.long, device=cell.device)
        for into, value in ((states, first), (cells, cell), (reads, read), (memories, memory), (usages, usage)):
            into[0] = value
        for t in range(n):
            # The controller
            torch.addmm(projected[t], states[t], recurrent.T, out=gates[t])
            i, f, g, o = gates[t].chunk(4, dim=1)
            gates[t, :, : 2 * width].sigmoid_(), g.tanh_(), o.sigmoid_()
            torch.mul(f, cells[t], out=cells[t + 1]).addcmul_(i, g)
            hidden, vectors = states[t + 1, :, :width], states[t + 1, :, width:].unflatten(1, (heads, size))
            torch.mul(o, cells[t + 1].tanh(), out=hidden)
            emitted = torch.addmm(bias, hidden, emit.T)
            torch.tanh(emitted[:, : heads * size].unflatten(1, (heads, size)), out=keys[t])
            share = torch.sigmoid(emitted[:, heads * size :], out=shares[t])[..., None]  # sigmoid(alpha)
            # The memory: equations 6, 7, 8
            least[t] = usages[t].argsort(dim=-1, stable=True)[:, :heads]
            torch.mul(reads[t], share, out=writes[t])
            writes[t].scatter_add_(2, least[t, :, None].expand(-1, heads, -1), (1 - share).expand(-1, -1, heads))
            after = memories[t + 1].copy_(memories[t])
            after.scatter_(1, least[t, :, :1, None].expand(-1, -1, size), 0.0)
            after.baddbmm_(writes[t].transpose(1, 2), keys[t])
            # Equations 2, 3, 4, 5
            seen = memories[t] if read_first else after
            torch.bmm(keys[t], seen.transpose(1, 2), out=products[t])
            torch.linalg.vector_norm(seen, dim=-1, out=squares[t]).square_()
            lengths = keys[t].square().sum(-1)[..., None] * squares[t][:, None]
            torch.softmax(products[t] * lengths.clamp_(min=EMPTY).rsqrt_(), dim=-1, out=reads[t + 1])
            vectors.copy_(torch.bmm(reads[t + 1], seen))
            torch.add(usages[t] * decay, (reads[t + 1] + writes[t]).sum(1), out=usages[t + 1])
        ctx.options, ctx.sizes = options, (n, b, heads, rows, size, width)
        ctx.save_for_backward(recurrent, emit, count)
        ctx.kept = (states, cells, gates, keys, shares, reads, writes, memories, products, squares, least)
        ctx.set_materialize_grads(False)
        task = torch.arange(b, device=cell.device)
        last = usages[count, task]
        ctx.mark_non_differentiable(last)
        return states[1:], cells[1:], reads[1:], memories[count, task], last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        to_state, to_cell, to_read, to_memory, _ = grads
        (n, b, heads, rows, size, width), (_, read_first) = ctx.sizes, ctx.options
        recurrent, emit, count = ctx.saved_tensors
        states, cells, gates, keys, shares, reads, writes, memories, products, squares, least = ctx.kept

        # What needs no later step, for all steps at once: the derivatives of the gates by their inputs,
        i, f, g, o = gates.chunk(4, dim=-1)
        tanh = cells[1:].tanh()
        by_cell = torch.cat([g * i * (1 - i), cells[:-1] * f * (1 - f), i * (1 - g * g)], dim=-1)
        by_hidden, cell_by_hidden = tanh * o * (1 - o), o * (1 - tanh * tanh)
        # and of cosine = product * scale, scale = (|key|^2 |row|^2)^-1/2, by its lengths.
        key_squares = keys.square().sum(-1)
        lengths = key_squares[..., None] * squares[:, :, None]
        scale = lengths.clamp(min=EMPTY).rsqrt()
        by_lengths = products * scale.pow(3) * (lengths >= EMPTY)
        by_key, by_row = by_lengths * squares[:, :, None], by_lengths * key_squares[..., None]

        d_gates, d_emitted = torch.empty_like(gates), gates.new_empty(n, b, heads * size + heads)
        d_state, d_cell, d_read, d_memory = (torch.zeros_like(part[0]) for part in (states, cells, reads, memories))
        pairs, factors = gates.new_empty(b, 2 * heads, rows), gates.new_empty(b, 2 * heads, size)
        for t in reversed(range(n)):
            for into, more in ((d_state, to_state), (d_cell, to_cell), (d_read, to_read)):
                if more is not None:
                    into += more[t]
            if to_memory is not None:
                d_memory += to_memory * (count == t + 1)[:, None, None]
            seen, key, d_vectors = memories[t if read_first else t + 1], keys[t], d_state[:, width:]
            d_vectors = d_vectors.unflatten(1, (heads, size))
            # Equations 4, 3, 2
            d_read.baddbmm_(d_vectors, seen.transpose(1, 2))
            d_cosine = torch._softmax_backward_data(d_read, reads[t + 1], -1, d_read.dtype)
            d_product = d_cosine * scale[t]
            d_key = torch.bmm(d_product, seen).addcmul_(key, (d_cosine * by_key[t]).sum(-1, keepdim=True), value=-1)
            pairs[:, :heads], pairs[:, heads:] = reads[t + 1], d_product
            factors[:, :heads], factors[:, heads:] = d_vectors, key
            on_rows = (d_cosine * by_row[t]).sum(1)[..., None]
            if not read_first:
                d_memory.baddbmm_(pairs.transpose(1, 2), factors).addcmul_(seen, on_rows, value=-1)
            # Equations 8, 7
            d_key.baddbmm_(writes[t], d_memory)
            d_write = torch.bmm(key, d_memory.transpose(1, 2))
            d_memory.scatter_(1, least[t, :, :1, None].expand(-1, -1, size), 0.0)
            if read_first:
                d_memory.baddbmm_(pairs.transpose(1, 2), factors).addcmul_(seen, on_rows, value=-1)
            share = shares[t]
            to_least = d_write.gather(2, least[t, :, None].expand(-1, heads, -1)).sum(-1)
            d_share = (d_write * reads[t]).sum(-1) - to_least
            torch.mul(d_write, share[..., None], out=d_read)
            # The controller
            torch.mul(d_share, share * (1 - share), out=d_emitted[t, :, heads * size :])
            torch.mul(d_key.flatten(1), 1 - key.flatten(1).square(), out=d_emitted[t, :, : heads * size])
            d_hidden = torch.addmm(d_state[:, :width], d_emitted[t], emit)
            d_cell.addcmul_(d_hidden, cell_by_hidden[t])
            into = d_gates[t]
            torch.mul(
                d_cell[:, None], by_cell[t].unflatten(1, (3, width)), out=into[:, : 3 * width].unflatten(1, (3, width))
            )
            torch.mul(d_hidden, by_hidden[t], out=into[:, 3 * width :])
            d_cell.mul_(f[t])
            torch.mm(into, recurrent, out=d_state)
        if to_memory is not None:
            d_memory += to_memory * (count == 0)[:, None, None]
        flat = d_gates.flatten(0, 1), d_emitted.flatten(0, 1)
        weights = flat[0].T @ states[:-1].flatten(0, 1), flat[1].T @ states[1:, :, :width].flatten(0, 1)
        return None, d_gates, *weights, flat[1].sum(0), d_state, d_cell, d_read, d_memory, None, None
