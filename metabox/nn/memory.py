"""External memory with least recently used access, as a function of its state; the module stores none."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from metabox.checks import checked
from metabox.ranges import Count, Positive, Share

GateKind = Literal["learned", "emitted"]
ReadKind = Literal["after", "before", "weights-before"]
WrittenKind = Literal["keys", "separate"]
LeastUsedKind = Literal["shared", "own"]
BeginKind = Literal["zeros", "first-row"]

NEARLY_ZERO = 1e-6  # every number of a memory that begins with its first row in use


class Access(NamedTuple):
    """The results of M independent accesses to one memory (R rows of S numbers, H heads)."""

    keep: Tensor  # [T, R], 0 for the row that was erased, 1 for the others
    written: Tensor  # [T, M, H, S], the vectors that are written
    write: Tensor  # [T, M or 1, H, R], write weights
    square: Tensor  # [T, M, R], squared lengths of the rows after the write
    read: Tensor  # [T, M, H, R], read weights
    vectors: Tensor  # [T, M, H * S], read vectors


class LRUMemory(nn.Module):
    """Memory of R rows with least recently used access (Santoro et al. 2016, sections 3.1 and 3.2).

    By default it is the paper's, to which every option is another choice. Every head h emits a key k_h, which is both
    written and searched for. With w^r, w^w of each head and M_t(i) a row:

    * the least used row, by w^u_{t-1}, is set to zero
    * w^lu_{t-1}(i) is 1 for the n least used rows, 0 for the others, n being the number of heads (equation 6)
    * w^w_t = sigmoid(alpha) w^r_{t-1} + (1 - sigmoid(alpha)) w^lu_{t-1} (equation 7)
    * M_t(i) = M_{t-1}(i) + sum over heads of w^w_t(i) k_t (equation 8)
    * w^r_t(i) = softmax over i of the cosine of k_t and M_t(i) (equations 2 and 3)
    * r_t = sum_i w^r_t(i) M_t(i) (equation 4)
    * w^u_t = gamma w^u_{t-1} + sum over heads of w^r_t + w^w_t (equation 5)

    Many accesses to one memory need no copies of it. An access reads from M_t = E + W K, where E is the memory with its
    least used row erased, common to all, and W `[R, H]` and K `[H, S]` are the write weights and the vectors written by
    the access: products with M_t, its rows' lengths and sums follow from those of E and of K.

    Args:
        controller: width of the controller's output, which gives the keys.
        rows: R.
        size: numbers in a row.
        heads: number of heads, each with one key per step.
        decay: gamma.
        gate: where alpha comes from, "learned" (one parameter for each head) or "emitted" by the controller.
        reads: what equations 2 and 4 take as the memory. "after": M_t for both; "before": M_{t-1}, for both;
            "weights-before": the weights are from the cosine with M_{t-1}, and the sums are of M_t.
        written: what is written in equation 8: "keys", or "separate", a vector k'_h = tanh(linear) of its own.
        least_used: the rows that a head's part (1 - sigmoid(alpha)) of equation 7 goes to: "shared", all of the n least
            used, or "own", one each, the least used one for the first head.
        sharpness: the initial value of a learned factor of each head on the cosine in equation 3; None for no factor.
        begins: "zeros", all rows empty and unused, or "first-row", all rows 1e-6 and all weights w^r_0, w^u_0 on the
            first row.

    Raises:
        ValueError: if there are fewer rows than heads.
    """

    decayed = ()

    @checked
    def __init__(
        self,
        controller: Count,
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
    ) -> None:
        super().__init__()
        if heads > rows:
            raise ValueError(f"expected at most as many heads as rows, got {heads} heads for {rows} rows")
        self.rows, self.size, self.heads = rows, size, heads
        # The squared product of two lengths below which a cosine fades to 0, its value for an empty row
        self.empty = 1e-8 if begins == "zeros" else 1e-16
        self.decay, self.reads, self.least_used, self.begins = decay, reads, least_used, begins
        self.out_features = heads * size
        self.key = nn.Linear(controller, heads * size)
        self.alpha = nn.Parameter(torch.zeros(heads)) if gate == "learned" else None
        self.emit_alpha = nn.Linear(controller, heads) if gate == "emitted" else None
        self.value = nn.Linear(controller, heads * size) if written == "separate" else None
        self.log_sharpness = None if sharpness is None else nn.Parameter(torch.full((heads,), math.log(sharpness)))

    def start(self, like: Tensor) -> dict[str, Tensor]:
        """The state: `memory [T, R, S]`, the rows' squared lengths and usage `square`, `usage [T, R]`.

        Also the read weights `read [T, H, R]` and read vectors `vectors [T, H * S]` of the last step. All are zeros,
        unless the memory begins with its first row in use.
        """
        sizes = {
            "memory": (self.rows, self.size),
            "square": (self.rows,),
            "usage": (self.rows,),
            "read": (self.heads, self.rows),
            "vectors": (self.out_features,),
        }
        state = {name: _exact(like).new_zeros(len(like), *size) for name, size in sizes.items()}
        if self.begins == "first-row":
            state["memory"].fill_(NEARLY_ZERO)
            state["square"].fill_(self.size * NEARLY_ZERO**2)
            for name in ("usage", "read"):
                state[name][..., 0] = 1
        return state

    def forward(self, state: dict[str, Tensor], controller: Tensor) -> Access:
        """M accesses from one state, for the controller's outputs `[T, M, F]`."""
        keys = self._of_heads(self.key, controller)
        written = keys if self.value is None else self._of_heads(self.value, controller)
        alpha = self.emit_alpha(controller) if self.emit_alpha else self.alpha
        with torch.autocast(controller.device.type, enabled=False):  # bf16 would blur cosines and usage
            gate = _exact(cast(Tensor, alpha)).sigmoid()[..., None]
            memory, square = state["memory"], state["square"]
            least_used, keep = self._least_used(state["usage"])
            write = gate * state["read"][:, None] + (1 - gate) * least_used

            # Products of keys with the rows of M_{t-1}, E, and M_t = E + W K; |E + W K|^2 = |E|^2 + W (2 K E + K K W)
            before, kept = _products(keys, memory), keep[:, None, None]
            after = before * kept + keys @ written.transpose(-1, -2) @ write
            erased, changed = before * kept, after
            if self.value is not None:
                erased = _products(written, memory) * kept
                changed = erased + written @ written.transpose(-1, -2) @ write
            square_after = (square * keep)[:, None] + (write * (erased + changed)).sum(2)
            if self.reads == "after":
                read = self._weights(after, keys, square_after)
            else:
                read = self._weights(before, keys, square[:, None])
            if self.reads == "before":
                vectors = _sums(read, memory)
            else:
                vectors = _sums(read * kept, memory) + read @ write.transpose(-1, -2) @ written
        return Access(keep, written, write, square_after, read, vectors.flatten(2))

    def _of_heads(self, layer: nn.Linear, controller: Tensor) -> Tensor:
        """Each head's vector, `[T, M, H, S]`."""
        return _exact(layer(controller).tanh().unflatten(-1, (self.heads, self.size)))

    def _least_used(self, usage: Tensor) -> tuple[Tensor, Tensor]:
        """w^lu `[T, 1, H or 1, R]`, and 0 for the least used row and 1 for the others, `[T, R]`."""
        rows = usage.argsort(dim=-1, stable=True)[:, : self.heads]
        keep = torch.ones_like(usage).scatter(1, rows[:, :1], 0.0)
        if self.least_used == "own":
            own = usage.new_zeros(len(usage), self.heads, self.rows).scatter(2, rows[..., None], 1.0)
            return own[:, None], keep
        return torch.zeros_like(usage).scatter(1, rows, 1.0)[:, None, None], keep

    def _weights(self, products: Tensor, keys: Tensor, square: Tensor) -> Tensor:
        """Weights from products of keys and rows `[T, M, H, R]`, keys, and the rows' squared lengths `[T, M, R]`."""
        lengths = keys.square().sum(-1, keepdim=True) * square[:, :, None]
        cosines = products * lengths.clamp(min=self.empty).rsqrt()
        if self.log_sharpness is not None:
            cosines = cosines * self.log_sharpness.to(cosines.dtype).exp()[:, None]
        return cosines.softmax(-1)

    def advance(self, state: dict[str, Tensor], access: Access, real: Tensor) -> dict[str, Tensor]:
        """The state after one access (M = 1), unchanged for tasks whose `real [T]` is False."""
        keep, (written, write, square, read, vectors) = access.keep, (part.squeeze(1) for part in access[1:])
        real = real[:, None]
        # No gradient: usage only determines which rows are the least used.
        usage = self.decay * state["usage"] + (read + write).detach().sum(1)
        # Only the memory is large: to leave it unchanged, keep all rows and write zeros.
        kept = state["memory"] * (keep + ~real).clamp(max=1)[..., None]
        with torch.autocast(written.device.type, enabled=False):
            memory = torch.baddbmm(kept, (write * real[..., None]).transpose(1, 2), written)
        return {
            "memory": memory,
            "square": torch.where(real, square, state["square"]),
            "usage": torch.where(real, usage, state["usage"]),
            "read": torch.where(real[..., None], read, state["read"]),
            "vectors": torch.where(real, vectors, state["vectors"]),
        }

    def extra_repr(self) -> str:
        return f"rows={self.rows}, heads={self.heads}, decay={self.decay}, reads={self.reads!r}"


def _products(keys: Tensor, rows: Tensor) -> Tensor:
    """Products of keys `[T, M, H, S]` and rows `[T, R, S]`: `[T, M, H, R]`."""
    products: Tensor = (keys.flatten(1, 2) @ rows.transpose(1, 2)).unflatten(1, keys.shape[1:3])
    return products


def _sums(weights: Tensor, rows: Tensor) -> Tensor:
    """Sums of rows `[T, R, S]` with weights `[T, M, H, R]`: `[T, M, H, S]`."""
    sums: Tensor = (weights.flatten(1, 2) @ rows).unflatten(1, weights.shape[1:3])
    return sums


def _exact(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
