"""An LSTM with a memory (`LRUMemory`) over a whole sequence as one function, with a backward pass of its own.

It does what `MANN.step` and `MANN.advance` do one step after the other, with fewer and larger operations: each step
keeps what its derivatives need, and the gradients of the weights are formed once, over all steps.

Letters: n steps, b tasks, W units, H heads, R rows of S numbers. Equations are those of Santoro et al. 2016. Plural
names are buffers with the step in front, singular ones are lists of their steps; those of n + 1 steps begin with the
state before the first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from metabox.nn.memory import LRUMemory, ReadKind

State = dict[str, Tensor]


class _Options(NamedTuple):
    decay: float
    empty: float
    reads: ReadKind
    separate: bool  # what is written is not the keys
    own: bool  # each head has a least used row of its own


def memory_scan(
    memory: LRUMemory, state: State, projected: Tensor, recurrent: Tensor, real: Tensor
) -> tuple[Tensor, State]:
    """The outputs (h_t, r_t) `[N, T, W + H * S]` of a sequence, and the state after it.

    Args:
        memory: its weights and options.
        state: before the first step: that of the memory, and `hidden` and `cell [T, W]`.
        projected: the inputs times their weights, plus biases, for `lstm_step`: `[N, T, 4 * W]`.
        recurrent: the weights of (h_{t-1}, r_{t-1}), `[4 * W, W + H * S]`.
        real: `[T, N]`, False for padding, which comes last in every task.
    """
    emit, bias = _emitted(memory)
    options = _Options(memory.decay, memory.empty, memory.reads, memory.value is not None, memory.least_used == "own")
    with torch.autocast(projected.device.type, enabled=False):
        sharpness = projected.new_ones(()) if memory.log_sharpness is None else memory.log_sharpness.exp()[:, None]
        floats = (projected, recurrent, emit, bias, sharpness, state["hidden"], state["cell"])
        *weights, hidden, cell = (part.to(state["memory"].dtype) for part in floats)
        start = (torch.cat([hidden, state["vectors"]], dim=1), cell, state["read"], state["memory"], state["usage"])
        outputs, last, cell, read, rows, usage = _Scan.apply(options, *weights, *start, real.sum(1))
        hidden, vectors = last.split([hidden.shape[1], memory.out_features], dim=1)
        after = {"memory": rows, "square": rows.square().sum(-1), "usage": usage, "read": read, "vectors": vectors}
    return outputs, {"hidden": hidden, "cell": cell, **after}


def _emitted(memory: LRUMemory) -> tuple[Tensor, Tensor]:
    """Weight and bias of the map from h_t to what is written, if it is separate, to the keys, and to the heads' alpha.

    The first two are before tanh.
    """
    layers = [layer for layer in (memory.value, memory.key, memory.emit_alpha) if layer is not None]
    weights: list[Tensor] = [layer.weight for layer in layers]
    biases: list[Tensor] = [layer.bias for layer in layers]
    if memory.alpha is not None:  # the same at every step: the bias alone
        weights.append(memory.key.weight.new_zeros(memory.heads, memory.key.in_features))
        biases.append(memory.alpha)
    return torch.cat(weights), torch.cat(biases)


class _Scan(torch.autograd.Function):
    """The outputs of all n steps, and the states after the first `count` of them."""

    @staticmethod
    def forward(
        ctx: Any,
        options: _Options,
        projected: Tensor,  # [n, b, 4W]
        recurrent: Tensor,  # [4W, W + HS]
        emit: Tensor,  # [VS + H, W], V being 2H if what is written is separate, else H
        bias: Tensor,  # [VS + H]
        sharpness: Tensor,  # [H, 1], or 1 without axes if there is none
        *start: Tensor,  # (h_0, r_0) [b, W + HS]; cell [b, W]; read, memory, usage as in `LRUMemory`; count [b]
    ) -> tuple[Tensor, ...]:
        *first, count = start
        n, (b, heads, rows), size, width = len(projected), first[2].shape, first[3].shape[-1], first[1].shape[-1]
        vectors_made, sharp = heads * (1 + options.separate), sharpness.ndim > 0

        def buffers(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
            return tuple(projected.new_empty(n, b, *shape) for shape in shapes)

        after = [projected.new_empty(n + 1, *part.shape) for part in first]
        for buffer, part in zip(after, first, strict=True):
            buffer[0] = part
        states = after[0]
        # Gates; what is written, and keys; sigmoid(alpha); write weights
        made = buffers((4 * width,), (vectors_made, size), (heads, 1), (heads, rows))
        cosines = buffers((heads, rows), (heads, 1), (1, rows), (heads, rows))  # products, |key|^2, |row|^2, scales
        leasts = torch.empty(n, b, heads, dtype=torch.long, device=projected.device)

        state, cell, read, memory, usage = (part.unbind() for part in after)
        hidden, vectors = states[:, :, :width].unbind(), states[:, :, width:].unflatten(2, (heads, size)).unbind()
        gate, vector, share, write = (part.unbind() for part in made)
        written, key = made[1][:, :, :heads].unbind(), made[1][:, :, -heads:].unbind()
        sigmoids = made[0][:, :, : 2 * width].unbind()
        i, f, g, o = (part.unbind() for part in made[0].chunk(4, dim=-1))
        product, key_square, row_square, scale = (part.unbind() for part in cosines)
        rows_square = cosines[2].squeeze(2).unbind()
        least, by_gate, by_emitted = leasts.unbind(), recurrent.T, emit.T
        for t, inputs in enumerate(projected.unbind()):
            # The controller
            torch.addmm(inputs, state[t], by_gate, out=gate[t])
            sigmoids[t].sigmoid_(), g[t].tanh_(), o[t].sigmoid_()
            torch.mul(f[t], cell[t], out=cell[t + 1]).addcmul_(i[t], g[t])
            torch.mul(o[t], cell[t + 1].tanh(), out=hidden[t + 1])
            emitted, alphas = torch.addmm(bias, hidden[t + 1], by_emitted).split([vectors_made * size, heads], dim=1)
            torch.tanh(emitted.unflatten(1, (vectors_made, size)), out=vector[t])
            torch.sigmoid(alphas[..., None], out=share[t])
            # The memory: equations 6, 7, 8
            least[t].copy_(usage[t].argsort(dim=-1, stable=True)[:, :heads])
            torch.mul(read[t], share[t], out=write[t])
            to_least = least[t][..., None] if options.own else least[t][:, None].expand(-1, heads, -1)
            write[t].scatter_add_(2, to_least, (1 - share[t]).expand_as(to_least))
            memory[t + 1].copy_(memory[t]).scatter_(1, least[t][:, :1, None].expand(-1, -1, size), 0.0)
            memory[t + 1].baddbmm_(write[t].transpose(1, 2), written[t])
            # Equations 2, 3, 4, 5
            seen = memory[t + 1] if options.reads == "after" else memory[t]
            torch.bmm(key[t], seen.transpose(1, 2), out=product[t])
            torch.linalg.vector_norm(seen, dim=-1, out=rows_square[t]).square_()
            torch.sum(key[t].square(), dim=-1, keepdim=True, out=key_square[t])
            torch.mul(key_square[t], row_square[t], out=scale[t]).clamp_(min=options.empty).rsqrt_()
            cosine = product[t] * scale[t]
            torch.softmax(cosine.mul_(sharpness) if sharp else cosine, dim=-1, out=read[t + 1])
            summed = memory[t] if options.reads == "before" else memory[t + 1]
            vectors[t + 1].copy_(torch.bmm(read[t + 1], summed))
            torch.add((read[t + 1] + write[t]).sum(1), usage[t], alpha=options.decay, out=usage[t + 1])
        ctx.options, ctx.sizes, ctx.kept = options, (width, heads, size), (*after[:4], *made, *cosines, leasts)
        ctx.save_for_backward(recurrent, emit, sharpness, count)
        ctx.set_materialize_grads(False)
        task = torch.arange(b, device=count.device)
        last = [part[count, task] for part in after]
        ctx.mark_non_differentiable(last[-1])
        return states[1:], *last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        to_outputs, *to_last, _ = grads
        options, (width, heads, size), (recurrent, emit, sharpness, count) = ctx.options, ctx.sizes, ctx.saved_tensors
        sharp = sharpness.ndim > 0
        (
            states,
            cells,
            reads,
            memories,
            gates,
            made,
            shares,
            writes,
            products,
            key_squares,
            row_squares,
            scales,
            leasts,
        ) = ctx.kept
        (n, b), vectors_made = gates.shape[:2], made.shape[2]

        # What needs no later step, for all steps at once: the derivatives of the gates by their inputs,
        i, f, g, o = gates.chunk(4, dim=-1)
        tanh = cells[1:].tanh()
        by_cell = torch.stack([g * i * (1 - i), cells[:-1] * f * (1 - f), i * (1 - g * g)], dim=2).unbind()
        by_hidden, cell_by_hidden = (tanh * o * (1 - o)).unbind(), (o * (1 - tanh * tanh)).unbind()
        # those of keys and sigmoid(alpha), and of cosine = product * scale, scale = (|key|^2 |row|^2)^-1/2.
        by_vector, by_alpha = (1 - made * made).unbind(), (shares * (1 - shares)).unbind()
        by_lengths = (products * scales * scales * scales * (key_squares * row_squares >= options.empty)).unbind()

        d_gates, d_emitted = torch.empty_like(gates), gates.new_empty(n, b, vectors_made * size + heads)
        d_logits = torch.empty_like(products) if sharp else None
        into, into_last = (
            d_gates[..., : 3 * width].unflatten(2, (3, width)).unbind(),
            d_gates[..., 3 * width :].unbind(),
        )
        into_vectors = d_emitted[..., : vectors_made * size].unflatten(2, (vectors_made, size)).unbind()
        into_alpha = d_emitted[..., vectors_made * size :, None].unbind()
        d_gate, d_emit, forget = d_gates.unbind(), d_emitted.unbind(), f.unbind()
        keys, sources = made[:, :, -heads:], made[:, :, :heads]
        memory, read, key, written, write, scale, share, least = (
            part.unbind() for part in (memories, reads, keys, sources, writes, scales, shares, leasts)
        )
        key_square, row_square = key_squares.transpose(2, 3).unbind(), row_squares.transpose(2, 3).unbind()
        d_state, d_cell, d_read, d_memory = d_last = [
            torch.zeros_like(part[0]) for part in (states, cells, reads, memories)
        ]
        d_hidden, d_vectors = d_state[:, :width], d_state[:, width:].unflatten(1, (heads, size))
        pairs, factors = gates.new_empty(b, 2 * heads, reads.shape[-1]), gates.new_empty(b, 2 * heads, size)

        def end(t: int) -> None:
            """Add the gradients of the last states for tasks of t steps."""
            for own, more in zip(d_last, to_last, strict=True):
                if more is not None:
                    own += more * (count == t).view(-1, *[1] * (more.ndim - 1))

        def by_cosines_to_rows() -> None:
            if options.reads == "weights-before":
                d_memory.baddbmm_(d_product.transpose(1, 2), key[t])
            else:  # together with the sums, which are of the same memory
                (
                    torch.cat([read[t + 1], d_product], dim=1, out=pairs),
                    torch.cat([d_vectors, key[t]], dim=1, out=factors),
                )
                d_memory.baddbmm_(pairs.transpose(1, 2), factors)
            d_memory.addcmul_(seen, on_rows, value=-1)

        for t in reversed(range(n)):
            end(t + 1)
            if to_outputs is not None:
                d_state += to_outputs[t]
            seen = memory[t + 1 if options.reads == "after" else t]
            # Equations 4, 3, 2
            d_read.baddbmm_(d_vectors, memory[t if options.reads == "before" else t + 1].transpose(1, 2))
            if options.reads == "weights-before":
                d_memory.baddbmm_(read[t + 1].transpose(1, 2), d_vectors)
            d_cosine = torch._softmax_backward_data(d_read, read[t + 1], -1, d_read.dtype)
            if d_logits is not None:
                d_logits[t] = d_cosine
                d_cosine = d_cosine * sharpness
            d_product, d_lengths = d_cosine * scale[t], d_cosine * by_lengths[t]
            d_key = torch.bmm(d_product, seen).addcmul_(key[t], d_lengths @ row_square[t], value=-1)
            on_rows = (key_square[t] @ d_lengths).transpose(1, 2)
            if options.reads == "after":
                by_cosines_to_rows()
            # Equations 8, 7
            if options.separate:
                torch.cat([torch.bmm(write[t], d_memory), d_key], dim=1, out=into_vectors[t]).mul_(by_vector[t])
            else:
                torch.mul(d_key.baddbmm_(write[t], d_memory), by_vector[t], out=into_vectors[t])
            d_write = torch.bmm(written[t], d_memory.transpose(1, 2))
            d_memory.scatter_(1, least[t][:, :1, None].expand(-1, -1, size), 0.0)
            if options.reads != "after":
                by_cosines_to_rows()
            rows = least[t][..., None] if options.own else least[t][:, None].expand(-1, heads, -1)
            to_least = d_write.gather(2, rows).sum(-1, keepdim=True)
            d_share = (d_write * read[t]).sum(-1, keepdim=True) - to_least
            torch.mul(d_write, share[t], out=d_read)
            # The controller
            torch.mul(d_share, by_alpha[t], out=into_alpha[t])
            d_output = torch.addmm(d_hidden, d_emit[t], emit)
            d_cell.addcmul_(d_output, cell_by_hidden[t])
            torch.mul(d_cell[:, None], by_cell[t], out=into[t])
            torch.mul(d_output, by_hidden[t], out=into_last[t])
            d_cell.mul_(forget[t])
            torch.mm(d_gate[t], recurrent, out=d_state)
        end(0)
        flat = d_gates.flatten(0, 1), d_emitted.flatten(0, 1)
        weights = flat[0].T @ states[:-1].flatten(0, 1), flat[1].T @ states[1:, :, :width].flatten(0, 1)
        by_sharpness = None if d_logits is None else (d_logits * products * scales).sum((0, 1, 3))[:, None]
        return None, d_gates, *weights, flat[1].sum(0), by_sharpness, *d_last, None, None
