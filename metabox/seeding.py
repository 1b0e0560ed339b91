"""Counter-based draws: every random number is a hash of where it is used.

A mutable generator makes a draw depend on everything drawn before it. Here a draw is a
pure function of (seed, split, index, task, position), so a resumed run needs no sampler
state, two ranks never overlap, and seeds 42/step 1 and 43/step 0 have nothing in common
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

The hash works on 32-bit words held in int64, where `*`, `^` and `>>` mean the same for
Python ints, NumPy arrays and torch tensors on any device: one definition serves all three.
NumPy's uint32 gives the same bits in a third of the time (products wrap by themselves).
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Words = TypeVar("Words", int, NDArray[np.int64], Tensor)

WORD = 0xFFFFFFFF  # a word is an integer in [0, 2**32)


def mix(words: Words) -> Words:
    """A bijection of 32-bit words whose every output bit depends on every input bit.

    The multipliers are those of Wellons' `lowbias32` (2018), found by search for low bias.
    """
    words = words ^ (words >> 16)  # a copy; from here on arrays change in place
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
    plain = tuple([part.item() if isinstance(part, np.generic) else part for part in parts])
    low, high = struct.unpack("<II", hashlib.blake2b(repr(plain).encode(), digest_size=8).digest())
    return low, high


def step_seed(seed: int, index: int, rank: int = 0) -> int:
    """The seed of torch's own generators (dropout and the like) for one training step."""
    low, high = make_key("torch", seed, index, rank)
    return (high << 32 | low) & 0x7FFFFFFFFFFFFFFF


class Draws:
    """Independent named streams of random words for the tasks `first ... first + n_tasks - 1`.

    Task t's words do not depend on `n_tasks` or `first`, only on its own number.
    """

    def __init__(self, *address: object, n_tasks: int, first: int = 0) -> None:
        self.addresses = [address]
        self.tasks = np.arange(first, first + n_tasks, dtype=np.int64)

    @classmethod
    def block(cls, *address: object, indices: range, n_tasks: int, first: int = 0) -> Draws:
        """The streams of `Draws(*address, index, ...)` for several indices at once, one after the other on axis 0."""
        draws = cls(n_tasks=n_tasks, first=first)
        draws.addresses = [(*address, index) for index in indices]
        return draws

    def words(self, name: str, *shape: int) -> NDArray[np.int64]:
        """32 random bits, `[T, *shape]`."""
        size = int(np.prod(shape, dtype=np.int64))
        counters = self.tasks[:, None] * size + np.arange(size, dtype=np.int64)
        if counters.size and (counters[0, 0] < 0 or counters[-1, -1] > WORD):
            raise ValueError(
                f"expected task numbers from 0 to {(WORD + 1) // size - 1} for draws of {size} words a task, "
                f"got {self.tasks[0]} to {self.tasks[-1]}; use a new `index` for further tasks"
            )
        keys = np.array([make_key(name, *address) for address in self.addresses], dtype=np.uint32)[:, :, None, None]
        narrow: Any = counters.astype(np.uint32)  # see the top of the file
        return mix(mix(narrow ^ keys[:, 0]) ^ keys[:, 1]).astype(np.int64).reshape(len(keys) * len(counters), *shape)

    def integers(self, name: str, low: int, high: NDArray[np.int64] | int, *shape: int) -> NDArray[np.int64]:
        """Uniform in [low, high], both included, `[T, *shape]`; `high` may be an array `[T, *shape]`."""
        if np.all(high == low):  # nothing to draw, as for a fixed way or shot
            return np.full((len(self.addresses) * len(self.tasks), *shape), low, dtype=np.int64)
        return low + (self.words(name, *shape) * (high - low + 1) >> 32)

    def uniform(self, name: str, low: float, high: float, *shape: int) -> NDArray[np.float64]:
        """Uniform in (low, high), `[T, *shape]`."""
        return low + (high - low) * self._between_0_and_1(name, *shape)

    def normal(self, name: str, *shape: int) -> NDArray[np.float64]:
        """Standard normal, `[T, *shape]`: the inverse of its distribution function, so within 6.4 of 0.

        Drawn on the host, so they are the same bits for every device; another version of SciPy may round otherwise.
        """
        from scipy.special import ndtri  # takes a while to import

        values: NDArray[np.float64] = ndtri(self._between_0_and_1(name, *shape))
        return values

    def _between_0_and_1(self, name: str, *shape: int) -> NDArray[np.float64]:
        """Uniform among the 2**32 middles of equal parts of the unit interval: never 0 or 1."""
        middles: Any = (self.words(name, *shape) + 0.5) * 2.0**-32
        return middles

    def distinct(self, name: str, k: int, n: NDArray[np.int64], smallest: int, largest: int) -> NDArray[np.int64]:
        """k numbers of range(n) without replacement, in random order: `n: [T, ...] -> [T, ..., k]`.

        `smallest <= n <= largest` are bounds known to the caller (they choose the method, and
        reading them off `n` would cost a pass). Every n must be at least k.
        """
        if 2 * smallest >= k * k:  # collisions are rare: draw with replacement, redraw rows that repeat
            return self._by_rejection(name, k, n)
        # Few to choose from: sort random keys. The position rides in the low bits of its key.
        bits = max(1, int(largest - 1).bit_length())
        position = np.arange(largest, dtype=np.int64)
        keys = self.words(name, *n.shape[1:], largest)
        keys <<= bits
        keys |= position
        if smallest < largest:
            keys[position >= n[..., None]] = np.iinfo(np.int64).max
        keys.sort(axis=-1)
        return keys[..., :k] & ((1 << bits) - 1)

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

    def shuffled(self, name: str, valid: NDArray[np.bool_]) -> NDArray[np.int64]:
        """A random order of each row of `valid: [T, K]`, the True positions before the False ones."""
        k = valid.shape[1]
        bits = max(1, (k - 1).bit_length())
        keys = self.words(name, k)
        keys <<= bits
        keys |= np.arange(k, dtype=np.int64)
        if not valid.all():
            keys[~valid] |= np.int64(1) << (32 + bits)
        keys.sort(axis=-1)
        keys &= (1 << bits) - 1
        return keys
