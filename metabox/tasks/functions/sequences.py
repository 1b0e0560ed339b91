"""Memory tasks: what was stored must be recalled exactly."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import numpy as np
import torch

from metabox.arrays import Integers
from metabox.episodes import Device, Episodes, Examples
from metabox.ranges import Count, CountOrRange, Within, ends
from metabox.seeding import Draws
from metabox.targets import Binary, TaskSpec
from metabox.tasks.functions.base import padded
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler


class Recall(EpisodeSampler):
    """Pairs of a key and random bits; queries are keys of the support. All can be known: the oracle is 0 nats."""

    def __init__(
        self, length: CountOrRange, test_length: CountOrRange | None, value_bits: Count, key_size: Count
    ) -> None:
        self.value_bits = value_bits
        self.spec = TaskSpec(x_shape=(key_size,), target=Binary(value_bits))

    length: tuple[int, int]
    test_length: tuple[int, int]

    @abstractmethod
    def keys(self, draws: Draws, n: int) -> Integers:
        """n different keys for each task, as numbers: `[T, n]`."""

    @abstractmethod
    def asked(self, draws: Draws, stored: Integers, n: int) -> tuple[Integers, Integers]:
        """Which of the `stored [T]` pairs are queried, `[T, up to n]`, and how many of these count, `[T]`."""

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """A batch of sequences; see `EpisodeSampler.sample`."""
        draws = place.draws(type(self).__name__)
        low, high = self.test_length if place.split == "test" else self.length
        stored = draws.integers("length", low, high)
        key = (self.keys(draws, high)[..., None] >> np.arange(self.spec.x_shape[0])) & 1
        value = draws.integers("value", 0, 1, high, self.value_bits)
        pairs = np.concatenate([key, value], -1).astype(np.float32)
        which, count = self.asked(draws, stored, high)
        parts = []
        for rows, counts in ((pairs, stored), (np.take_along_axis(pairs, which[..., None], axis=1), count)):
            row, mask = padded(rows, 0, counts)
            x, y = np.split(row, [key.shape[2]], axis=-1)
            parts.append(Examples(x=torch.from_numpy(x), y=torch.from_numpy(y), mask=torch.from_numpy(mask)))
        return Episodes(support=parts[0], query=parts[1], oracle=torch.zeros(place.n_tasks)).to(device)


class AssociativeRecall(Recall):
    """Pairs of binary vectors, then some of the first vectors again, to which the second ones are recalled.

    After the associative recall of Graves et al. 2014 ("Neural Turing machines", section 4.3: items of three 6-bit
    vectors, 2 to 6 of them in training) in the key-value form of Ba et al. 2016 ("Using fast weights to attend to the
    recent past", section 4.1). The support holds the pairs in order; query x is a key of the support, y its value.

    Deviations: in Graves et al. the answer is the item that follows the queried one, and an item is a sequence; here a
    key and a value are one vector each, and a support label comes with its key. All keys of a task differ.

    Args:
        length: pairs in a task, or a range.
        test_length: the same for the split "test", which may have lengths never trained on; by default `length`.
        n_query: queried keys of each task, all different.
        key_bits: size of a key, at most 30.
        value_bits: size of a value.

    Raises:
        ValueError: if a size is out of range, or if there are more pairs than keys or more queries than pairs.
    """

    def __init__(
        self,
        length: CountOrRange = (2, 6),
        test_length: CountOrRange | None = None,
        n_query: Count = 1,
        key_bits: Annotated[int, Within(least=1, most=30)] = 18,
        value_bits: Count = 18,
    ) -> None:
        self.length = ends(length)
        self.test_length = ends(length if test_length is None else test_length)
        shortest, longest = min(self.length[0], self.test_length[0]), max(self.length[1], self.test_length[1])
        if longest > 2**key_bits:
            raise ValueError(f"expected at most 2**key_bits = {2**key_bits} pairs, got {longest}; raise key_bits")
        if n_query > shortest:
            raise ValueError(f"expected n_query from 1 to {shortest}, the fewest pairs of a task, got {n_query}")
        super().__init__(length, test_length, value_bits, key_bits)
        self.n_query = n_query

    def keys(self, draws: Draws, n: int) -> Integers:
        every = 2 ** self.spec.x_shape[0]
        return draws.distinct("key", n, np.full(len(draws.tasks), every), smallest=every, largest=every)

    def asked(self, draws: Draws, stored: Integers, n: int) -> tuple[Integers, Integers]:
        order = draws.shuffled("asked", np.arange(n) >= stored[:, None])
        return order[:, : self.n_query], np.full(len(stored), self.n_query)


class Copy(Recall):
    """Random binary vectors, to be repeated in the same order (Graves et al. 2014, "Neural Turing machines", 4.1).

    The vectors are the support's labels, and x is the binary code of their position. The first position of a task is
    random, and positions go on from the largest code to 0, so that short sequences have every position too. The query
    holds all positions in order. In the paper vectors have 8 bits, and sequences have 1 to 20 of them in training and
    up to 120 in test.

    Deviations: in the paper the vectors are inputs, and an end marker asks for them without their positions. Here each
    query is answered independently from phi, so it must give its position. (Under `StreamLoss` a recurrent learner
    sees the answers before the one it gives.)

    Args:
        length: vectors in a task, or a range.
        test_length: the same for the split "test", which may have lengths never trained on; by default `length`.
        value_bits: size of a vector.

    Raises:
        ValueError: if a size is out of range.
    """

    def __init__(
        self, length: CountOrRange = (1, 20), test_length: CountOrRange | None = None, value_bits: Count = 8
    ) -> None:
        self.length = ends(length)
        self.test_length = ends(length if test_length is None else test_length)
        longest = max(self.length[1], self.test_length[1])
        super().__init__(length, test_length, value_bits, max(1, (longest - 1).bit_length()))

    def keys(self, draws: Draws, n: int) -> Integers:
        last = 2 ** self.spec.x_shape[0] - 1
        places: Integers = (draws.integers("first", 0, last, 1) + np.arange(n)) & last
        return places

    def asked(self, draws: Draws, stored: Integers, n: int) -> tuple[Integers, Integers]:
        return np.broadcast_to(np.arange(n), (len(stored), n)), stored
