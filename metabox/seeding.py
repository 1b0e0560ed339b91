"""Counter-based draws: every random number is a hash of where it is used.

A mutable generator makes a draw depend on everything drawn before it. Here a draw is a
pure function of (seed, split, index, task, position), so a resumed run needs no sampler
state, two processes never overlap, and seeds 42/step 1 and 43/step 0 have nothing in common
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

The hash works on 32-bit words held in int64, where `*`, `^` and `>>` mean the same for
Python ints, NumPy arrays and torch tensors on any device: one definition serves all three.
NumPy's uint32 gives the same bits in a third of the time (its products wrap around).
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Words = TypeVar("Words", int, NDArray[np.int64], Tensor)

Ranks = NDArray[np.integer[Any]] | NDArray[np.bool_]

WORD = 0xFFFFFFFF  # a word is an integer in [0, 2**32)


def mix(words: Words) -> Words:
    """A bijection of 32-bit words; every output bit depends on every input bit.

    The multipliers are those of Wellons' `lowbias32` (2018), found by search for low bias.
    """
    words = words ^ (words >> 16)  # a copy; from here on arrays are changed in place
    words *= 0x7FEB352D
    words &= WORD
    words ^= words >> 15
    words *= 0x846CA68B
    words &= WORD
    words ^= words >> 16
    return words


def hash_words(words: Words, key: tuple[int, int]) -> Words:
    """32 random bits for each counter in `words`, under a 64-bit `key`."""
    return mix(mix(words ^ key[0]) ^ key[1])


def make_key(*parts: object) -> tuple[int, int]:
    """A 64-bit key, as two words, from anything with a stable `repr` (numbers, strings)."""
    low, high = struct.unpack("<II", _digest(repr(_plain(parts))))
    return low, high


def _plain(parts: tuple[object, ...]) -> tuple[object, ...]:
    return tuple([part.item() if isinstance(part, np.generic) else part for part in parts])


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def share_of(content: bytes) -> float:
    """A number in [0, 1) that stands for some bytes, the same on every machine: to deal things out by their names."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=6).digest(), "little") / 2**48


def step_seed(seed: int, index: int, rank: int = 0) -> int:
    """The seed of torch's generators (for dropout, say) in one training step."""
    low, high = make_key("torch", seed, index, rank)
    return (high << 32 | low) & 0x7FFFFFFFFFFFFFFF


class Draws:
    """Independent named streams of random words for the tasks `first ... first + n_tasks - 1`.

    Task t's words depend only on its number, not on `n_tasks` or `first`.
    """

    def __init__(self, *address: object, n_tasks: int, first: int = 0) -> None:
        self.address = _plain(address)
        self.indices: range | None = None
        self.tasks = np.arange(first, first + n_tasks, dtype=np.int64)

    @classmethod
    def block(cls, *address: object, indices: range, n_tasks: int, first: int = 0) -> Draws:
        """The streams of `Draws(*address, index, ...)` for several indices at once, one after the other on axis 0."""
        draws = cls(*address, n_tasks=n_tasks, first=first)
        draws.indices = indices
        return draws

    def at(self, chosen: Any) -> Draws:
        """The streams of some of these tasks, by their places here; the tasks keep the bits that they have here."""
        return self._like(self.address, self.tasks[chosen])

    def under(self, *address: object) -> Draws:
        """Other streams of the same tasks, one for each address."""
        return self._like((*_plain(address), *self.address), self.tasks)

    def _like(self, address: tuple[object, ...], tasks: NDArray[np.int64]) -> Draws:
        made = type(self)(n_tasks=0)
        made.address, made.indices, made.tasks = address, self.indices, tasks
        return made

    def words(self, name: str, *shape: int) -> NDArray[np.int64]:
        """32 random bits, `[T, *shape]`."""
        return self._words(name, *shape).astype(np.int64)

    def _words(self, name: str, *shape: int) -> NDArray[np.uint32]:
        size = math.prod(shape)
        counters = self.tasks[:, None] * size + np.arange(size, dtype=np.int64)
        if counters.size and (counters[0, 0] < 0 or counters[-1, -1] > WORD):
            raise ValueError(
                f"expected task numbers from 0 to {(WORD + 1) // size - 1} for draws of {size} words a task, "
                f"got {self.tasks[0]} to {self.tasks[-1]}; use a new `index` for further tasks"
            )
        keys = self._keys(name)[:, :, None, None]
        narrow: Any = counters.astype(np.uint32)  # see the top of the file
        words: NDArray[np.uint32] = mix(mix(narrow ^ keys[:, 0]) ^ keys[:, 1])
        return words.reshape(len(keys) * len(counters), *shape)

    def _keys(self, name: str) -> NDArray[np.uint32]:
        """`make_key(name, *address, index)` of each index, `[indices, 2]`."""
        text = repr((name, *self.address))
        texts = [text] if self.indices is None else [f"{text[:-1]}, {index})" for index in self.indices]
        return np.frombuffer(b"".join(map(_digest, texts)), dtype="<u4").reshape(-1, 2)

    def _order(self, name: str, rank: Ranks | None, *shape: int) -> NDArray[np.int64]:
        """Random orders of `range(shape[-1])`, `[T, *shape]`; numbers of a lower rank (0 to 3) come first.

        Random words are sorted, with the rank in their highest bits and the number in the lowest. Ties go by number:
        with 18 random bits or more the bias is too small to measure.
        """
        n = shape[-1]
        bits = max(1, (n - 1).bit_length())
        keys: Any = self._words(name, *shape)
        if bits > 12:
            keys = keys.astype(np.uint64) << np.uint64(32)
        word = keys.dtype.type
        low = word((1 << bits) - 1)
        keys >>= word(2)
        keys &= ~low
        keys |= np.arange(n, dtype=word)
        if rank is not None:
            keys |= rank.astype(word) << word(8 * keys.itemsize - 2)
        keys.sort(axis=-1)
        order: NDArray[np.int64] = (keys & low).astype(np.int64)
        return order

    def integers(self, name: str, low: int, high: NDArray[np.int64] | int, *shape: int) -> NDArray[np.int64]:
        """Uniform in [low, high], both included, `[T, *shape]`; `high` may be an array `[T, *shape]`."""
        if np.all(high == low):  # a fixed way or shot, say
            return np.full((len(self.indices or [0]) * len(self.tasks), *shape), low, dtype=np.int64)
        return low + (self.words(name, *shape) * (high - low + 1) >> 32)

    def uniform(self, name: str, low: float, high: float, *shape: int) -> NDArray[np.float64]:
        """Uniform in (low, high), `[T, *shape]`."""
        return low + (high - low) * self._between_0_and_1(name, *shape)

    def normal(self, name: str, *shape: int) -> NDArray[np.float64]:
        """Standard normal, `[T, *shape]`: the inverse of its distribution function, so within 6.4 of 0.

        Drawn on the host, so every device gets the same bits; another version of SciPy may round differently.
        """
        from scipy.special import ndtri  # takes a while to import

        values: NDArray[np.float64] = ndtri(self._between_0_and_1(name, *shape))
        return values

    def _between_0_and_1(self, name: str, *shape: int) -> NDArray[np.float64]:
        """Uniform among the midpoints of 2**32 equal parts of the unit interval: never 0 or 1."""
        middles: NDArray[Any] = (self.words(name, *shape) + 0.5) * 2.0**-32
        return middles

    def distinct(self, name: str, k: int, n: NDArray[np.int64], smallest: int, largest: int) -> NDArray[np.int64]:
        """k numbers of range(n) without replacement, in random order: `n: [T, ...] -> [T, ..., k]`.

        `smallest <= n <= largest` are bounds known to the caller (they choose the method, and
        computing them from `n` would cost a pass). Every n must be at least k.
        """
        if 2 * smallest >= k * k:  # collisions are rare: draw with replacement, redraw rows that repeat
            return self._by_rejection(name, k, n)
        missing = np.arange(largest) >= n[..., None] if smallest < largest else None
        return self._order(name, missing, *n.shape[1:], largest)[..., :k]

    def _by_rejection(self, name: str, k: int, n: NDArray[np.int64]) -> NDArray[np.int64]:
        drawn = self.words(name, *n.shape[1:], k) * n[..., None] >> 32
        attempt = 0
        while k > 1:
            in_order = np.sort(drawn, axis=-1)
            again = (in_order[..., 1:] == in_order[..., :-1]).any(axis=-1)
            if not again.any():
                break
            attempt += 1
            fresh = self.words(f"{name}/{attempt}", *n.shape[1:], k) * n[..., None] >> 32
            drawn[again] = fresh[again]
        return drawn

    def shuffled(self, name: str, rank: Ranks) -> NDArray[np.int64]:
        """Random orders of `range(K)`, `[T, K]`; with `rank: [T or 1, K]` from 0 to 3 the lower ranks come first."""
        return self._order(name, rank if rank.any() else None, rank.shape[1])
