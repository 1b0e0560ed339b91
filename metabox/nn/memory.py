"""External memory with least recently used access, as a function of its state; the module stores none."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from metabox.checks import checked
from metabox.ranges import Count, Share

GateKind = Literal["learned", "emitted"]


class Access(NamedTuple):
    """The results of M independent accesses to one memory (R rows of S numbers, H heads)."""

    keep: Tensor  # [T, R], 0 for the row that was erased, 1 for the others
    keys: Tensor  # [T, M, H, S]
    write: Tensor  # [T, M or 1, H, R], write weights
    square: Tensor  # [T, M, R], squared lengths of the rows after the write
    read: Tensor  # [T, M, H, R], read weights
    vectors: Tensor  # [T, M, H * S], read vectors


class LRUMemory(nn.Module):
    """Memory of R rows with least recently used access (Santoro et al. 2016, sections 3.1 and 3.2).

    Every head h emits a key k_h, which is both written and searched for. With w^r, w^w of each head and M_t(i) a row:

    * the least used row, by w^u_{t-1}, is set to zero
    * w^lu_{t-1}(i) is 1 for the n least used rows, 0 for the others, n being the number of heads (equation 6)
    * w^w_t = sigmoid(alpha) w^r_{t-1} + (1 - sigmoid(alpha)) w^lu_{t-1} (equation 7)
    * M_t(i) = M_{t-1}(i) + sum over heads of w^w_t(i) k_t (equation 8)
    * w^r_t(i) = softmax over i of the cosine of k_t and M_t(i) (equations 2 and 3)
    * r_t = sum_i w^r_t(i) M_t(i) (equation 4)
    * w^u_t = gamma w^u_{t-1} + sum over heads of w^r_t + w^w_t (equation 5)

    Many accesses to one memory need no copies of it. An access reads from M_t = E + W K, where E is the memory with its
    least used row erased, common to all, and W `[R, H]` and K `[H, S]` are the write weights and keys of the access:
    products with M_t, its rows' lengths and sums follow from those of E and of K.

    Args:
        controller: width of the controller's output, which gives the keys.
        rows: R.
        size: numbers in a row.
        heads: number of heads, each with one key per step.
        decay: gamma.
        gate: where alpha comes from, "learned" (one parameter for each head) or "emitted" by the controller.
        read_first: read from M_{t-1}, before writing.

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
        read_first: bool = False,
    ) -> None:
        super().__init__()
        if heads > rows:
            raise ValueError(f"expected at most as many heads as rows, got {heads} heads for {rows} rows")
        self.rows, self.size, self.heads = rows, size, heads
        self.decay, self.read_first = decay, read_first
        self.out_features = heads * size
        self.key = nn.Linear(controller, heads * size)
        self.alpha = nn.Parameter(torch.zeros(heads)) if gate == "learned" else None
        self.emit_alpha = nn.Linear(controller, heads) if gate == "emitted" else None

    def start(self, like: Tensor) -> dict[str, Tensor]:
        """The state: `memory [T, R, S]`, the rows' squared lengths and usage `square`, `usage [T, R]`, zeros.

        Also the read weights `read [T, H, R]` and read vectors `vectors [T, H * S]` of the last step.
        """
        sizes = {
            "memory": (self.rows, self.size),
            "square": (self.rows,),
            "usage": (self.rows,),
            "read": (self.heads, self.rows),
            "vectors": (self.out_features,),
        }
        return {name: _exact(like).new_zeros(len(like), *size) for name, size in sizes.items()}

    def forward(self, state: dict[str, Tensor], controller: Tensor) -> Access:
        """M accesses from one state, for the controller's outputs `[T, M, F]`."""
        keys = self.key(controller).tanh().unflatten(-1, (self.heads, self.size))
        alpha = self.emit_alpha(controller) if self.emit_alpha else self.alpha
        with torch.autocast(controller.device.type, enabled=False):  # bf16 would blur cosines and usage
            keys, gate = _exact(keys), _exact(cast(Tensor, alpha)).sigmoid()[..., None]
            memory, square, usage = state["memory"], state["square"], state["usage"]
            by_usage = usage.argsort(dim=-1, stable=True)
            keep = torch.ones_like(usage).scatter(1, by_usage[:, :1], 0.0)
            least_used = torch.zeros_like(usage).scatter(1, by_usage[:, : self.heads], 1.0)
            write = gate * state["read"][:, None] + (1 - gate) * least_used[:, None, None]

            # Products of keys with the rows of M_{t-1}, E, and M_t = E + W K; |E + W K|^2 = |E|^2 + W (2 K E + K K W)
            before = _products(keys, memory)
            erased = before * keep[:, None, None]
            after = erased + keys @ keys.transpose(-1, -2) @ write
            square_after = (square * keep)[:, None] + (write * (erased + after)).sum(2)
            if self.read_first:
                read = _softmax_of_cosine(before, keys, square[:, None])
                vectors = _sums(read, memory)
            else:
                read = _softmax_of_cosine(after, keys, square_after)
                vectors = _sums(read * keep[:, None, None], memory) + read @ write.transpose(-1, -2) @ keys
        return Access(keep, keys, write, square_after, read, vectors.flatten(2))

    def advance(self, state: dict[str, Tensor], access: Access, real: Tensor) -> dict[str, Tensor]:
        """The state after one access (M = 1), unchanged for tasks whose `real [T]` is False."""
        keep, (keys, write, square, read, vectors) = access.keep, (part.squeeze(1) for part in access[1:])
        real = real[:, None]
        # No gradient: usage only determines which rows are the least used.
        usage = self.decay * state["usage"] + (read + write).detach().sum(1)
        # Only the memory is large: to leave it unchanged, keep all rows and write zeros.
        kept = state["memory"] * (keep + ~real).clamp(max=1)[..., None]
        with torch.autocast(keys.device.type, enabled=False):
            memory = torch.baddbmm(kept, (write * real[..., None]).transpose(1, 2), keys)
        return {
            "memory": memory,
            "square": torch.where(real, square, state["square"]),
            "usage": torch.where(real, usage, state["usage"]),
            "read": torch.where(real[..., None], read, state["read"]),
            "vectors": torch.where(real, vectors, state["vectors"]),
        }

    def extra_repr(self) -> str:
        return f"rows={self.rows}, heads={self.heads}, decay={self.decay}, read_first={self.read_first}"


EMPTY = 1e-8  # the squared product of two lengths below which a cosine fades to 0, its value for an empty row


def _softmax_of_cosine(products: Tensor, keys: Tensor, square: Tensor) -> Tensor:
    """Weights from products of keys and rows `[T, M, H, R]`, keys, and the rows' squared lengths `[T, M, R]`."""
    lengths = keys.square().sum(-1, keepdim=True) * square[:, :, None]
    return (products * lengths.clamp(min=EMPTY).rsqrt()).softmax(-1)


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
