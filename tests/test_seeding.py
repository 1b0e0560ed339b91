"""Counter-based draws: the hash is a good one, and what is built on it is uniform and depends on its place alone."""

from __future__ import annotations

import hashlib
import math
import struct
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from metabox.seeding import WORD, Draws, hash_words, make_key, mix, step_seed

UNLIKELY = 1e-4  # the draws are fixed, so a test that passes once passes always

words_32 = st.integers(0, WORD)


def counts_of_rows(rows: NDArray[np.int64], kinds: list[tuple[int, ...]]) -> list[int]:
    """How often each kind of row comes up, none being of another kind."""
    found = dict.fromkeys(kinds, 0)
    for row in map(tuple, rows.tolist()):
        found[row] += 1
    return list(found.values())


def unshift(words: int, by: int) -> int:
    """The inverse of `words ^ (words >> by)`."""
    result = words
    for _ in range(32 // by):
        result = words ^ (result >> by)
    return result


def unmix(words: int) -> int:
    words = unshift(words, 16) * pow(0x846CA68B, -1, 2**32) & WORD
    words = unshift(words, 15) * pow(0x7FEB352D, -1, 2**32) & WORD
    return unshift(words, 16)


@given(words_32)
def test_mix_is_a_bijection(word: int) -> None:
    assert unmix(mix(word)) == word
    assert mix(unmix(word)) == word


def test_mix_gives_no_two_words_of_a_million_the_same_image() -> None:
    assert len(np.unique(mix(np.arange(1_000_000, dtype=np.int64)))) == 1_000_000


@given(st.lists(words_32, min_size=1), words_32, words_32)
def test_python_numpy_and_torch_give_the_same_bits(words: list[int], low: int, high: int) -> None:
    key = low, high
    wanted = [hash_words(word, key) for word in words]
    assert all(0 <= word <= WORD for word in wanted)
    assert hash_words(np.array(words, dtype=np.int64), key).tolist() == wanted
    assert hash_words(torch.tensor(words, dtype=torch.int64), key).tolist() == wanted
    narrow = np.array(words, dtype=np.uint32)
    assert mix(mix(narrow ^ np.uint32(low)) ^ np.uint32(high)).tolist() == wanted


def bits(words: NDArray[np.int64]) -> NDArray[np.int64]:
    return words[..., None] >> np.arange(32) & 1


@pytest.mark.parametrize("consecutive", [True, False])
def test_flipping_one_input_bit_flips_each_output_bit_in_half_of_the_cases(consecutive: bool) -> None:
    n = 1 << 14
    words = np.arange(n, dtype=np.int64) if consecutive else np.random.default_rng(0).integers(0, WORD, n)
    key = make_key("avalanche")
    for i in range(32):
        flips = bits(hash_words(words, key) ^ hash_words(words ^ (1 << i), key)).mean(0)
        assert np.abs(flips - 0.5).max() < 6 * 0.5 / math.sqrt(n), f"input bit {i}"


def test_keys_that_differ_in_one_bit_have_nothing_in_common() -> None:
    n = 1 << 14
    words, (low, high) = np.arange(n, dtype=np.int64), make_key("key")
    for key in ((low ^ 1, high), (low, high ^ 1), (low ^ 1 << 31, high), (high, low)):
        agree = (bits(hash_words(words, (low, high))) == bits(hash_words(words, key))).mean(0)
        assert np.abs(agree - 0.5).max() < 6 * 0.5 / math.sqrt(n)


@pytest.mark.parametrize("shift", [0, 8, 16, 24])
def test_every_byte_of_the_words_is_uniform(shift: int) -> None:
    words = Draws("uniform", n_tasks=1000).words("x", 256)
    assert chisquare(np.bincount((words >> shift & 255).ravel(), minlength=256)).pvalue > UNLIKELY


def test_neighbouring_words_are_independent() -> None:
    top = Draws("pairs", n_tasks=1000).words("x", 256) >> 28
    for a, b in ((top[:, :-1], top[:, 1:]), (top[:-1], top[1:])):  # within a task, and between tasks
        assert chisquare(np.bincount((a * 16 + b).ravel(), minlength=256)).pvalue > UNLIKELY


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 1), (3, 9), (-2, 4)])
def test_integers_are_uniform_with_both_ends_included(low: int, high: int) -> None:
    drawn = Draws("integers", n_tasks=4000).integers("x", low, high, 5)
    counts = np.bincount(drawn.ravel() - low, minlength=high - low + 1)
    assert drawn.shape == (4000, 5)
    assert len(counts) == high - low + 1
    assert high == low or chisquare(counts).pvalue > UNLIKELY


def test_the_upper_end_may_differ_from_task_to_task() -> None:
    high = np.arange(3000) % 3 + 1
    drawn = Draws("integers", n_tasks=3000).integers("x", 1, high)
    for end in (1, 2, 3):
        assert set(drawn[high == end]) == set(range(1, end + 1))


@pytest.mark.parametrize(
    ("k", "n", "smallest"),
    [(2, 5, 5), (2, 5, 0), (3, 5, 5), (3, 5, 0), (1, 4, 4), (1, 4, 0), (4, 4, 4), (2, 2, 2)],
)
def test_distinct_draws_every_ordered_subset_equally_often(k: int, n: int, smallest: int) -> None:
    """`smallest` chooses the method: by rejection where 2 * smallest >= k * k, else by sorting."""
    drawn = Draws("distinct", n_tasks=6000).distinct("x", k, np.full(6000, n), smallest=smallest, largest=n)
    counts = counts_of_rows(drawn, list(permutations(range(n), k)))
    assert chisquare(counts).pvalue > UNLIKELY


@pytest.mark.parametrize("smallest", [3, 5])
def test_distinct_is_uniform_where_sizes_differ_between_rows(smallest: int) -> None:
    sizes = np.tile([[3, 5], [6, 4]], (3000, 1))  # [T, 2], so k = 3 is drawn by both methods
    drawn = Draws("ragged", n_tasks=6000).distinct("x", 3, sizes, smallest=smallest, largest=6)
    assert drawn.shape == (6000, 2, 3)
    for size in (3, 4, 5, 6):
        assert chisquare(counts_of_rows(drawn[sizes == size], list(permutations(range(size), 3)))).pvalue > UNLIKELY


@pytest.mark.parametrize("smallest", [0, 20])
def test_what_a_task_draws_does_not_depend_on_the_tasks_beside_it(smallest: int) -> None:
    """Also where rejection has to redraw some of the rows."""

    def drawn(n_tasks: int, first: int) -> list[NDArray[np.int64]]:
        draws = Draws("here", n_tasks=n_tasks, first=first)
        n = np.full((n_tasks, 2), 8)
        return [
            draws.words("words", 3, 2),
            draws.integers("integers", 0, 9, 4),
            draws.distinct("distinct", 6, n, smallest=smallest, largest=8),
            draws.shuffled("shuffled", np.zeros((1, 5), dtype=bool)),
        ]

    for whole, part in zip(drawn(40, 0), drawn(7, 23), strict=True):
        assert np.array_equal(whole[23:30], part)


@pytest.mark.parametrize("valid", [[1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 1], [0, 0]])
def test_shuffled_puts_the_valid_first_in_a_uniform_order(valid: list[int]) -> None:
    row = np.array(valid, dtype=bool)
    drawn = Draws("shuffled", n_tasks=4000).shuffled("x", np.tile(~row, (4000, 1)))
    assert np.array_equal(np.sort(drawn, axis=1), np.tile(np.arange(len(row)), (4000, 1)))
    real, rest = drawn[:, : row.sum()], drawn[:, row.sum() :]
    for part, positions in ((real, row.nonzero()[0]), (rest, (~row).nonzero()[0])):
        counts = counts_of_rows(part, list(permutations(positions.tolist())))
        assert len(counts) == 1 or chisquare(counts).pvalue > UNLIKELY


@given(st.integers(0, 50), st.integers(1, 4), st.integers(1, 5), st.integers(0, 100))
def test_a_block_is_the_separate_draws_one_after_the_other(start: int, length: int, n_tasks: int, first: int) -> None:
    indices = range(start, start + length)
    block = Draws.block("a", 7, indices=indices, n_tasks=n_tasks, first=first)
    apart = [Draws("a", 7, index, n_tasks=n_tasks, first=first) for index in indices]
    n = np.full(n_tasks, 9)
    assert np.array_equal(block.words("w", 2, 3), np.concatenate([draws.words("w", 2, 3) for draws in apart]))
    for k, smallest in ((4, 9), (4, 0)):
        together = block.distinct("d", k, np.tile(n, length), smallest=smallest, largest=9)
        single = [draws.distinct("d", k, n, smallest=smallest, largest=9) for draws in apart]
        assert np.array_equal(together, np.concatenate(single))


def test_other_names_and_addresses_are_other_words() -> None:
    streams = [("x", ("a", 1)), ("y", ("a", 1)), ("x", ("a", 2)), ("x", ("b", 1)), ("x", ("a", "1")), ("xa", (1,))]
    drawn = {tuple(Draws(*address, n_tasks=1).words(name, 4).ravel().tolist()) for name, address in streams}
    assert len(drawn) == len(streams)


def test_a_counter_past_32_bits_is_refused_and_the_last_one_is_not() -> None:
    last = WORD // 4  # tasks of 4 words: counters 4 * last ... 4 * last + 3 are the last that fit
    Draws("a", n_tasks=1, first=last).words("x", 4)
    with pytest.raises(
        ValueError,
        match=rf"expected task numbers from 0 to {last} .* 4 words a task, got {last + 1} to {last + 1}; use",
    ):
        Draws("a", n_tasks=1, first=last + 1).words("x", 4)
    Draws("a", n_tasks=1, first=WORD).words("x")
    with pytest.raises(ValueError, match="expected task numbers"):
        Draws("a", n_tasks=2, first=WORD).words("x")


def test_numpy_integers_are_the_same_address_as_python_integers() -> None:
    assert make_key("a", np.int64(3)) == make_key("a", 3)


def test_no_words_are_an_empty_array() -> None:
    assert Draws("a", n_tasks=3).words("x", 0).shape == (3, 0)


def test_a_negative_task_number_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        Draws("a", n_tasks=1, first=-1).words("x")


def test_keys_are_two_words_and_the_same_in_every_process() -> None:
    digest = hashlib.blake2b(b"('torch', 42, 0)", digest_size=8).digest()
    assert make_key("torch", 42, 0) == struct.unpack("<II", digest) == (3731689146, 4207458788)


def test_seeds_of_steps_differ_and_fit_torch() -> None:
    seeds = {step_seed(seed, index, rank) for seed in range(8) for index in range(50) for rank in range(4)}
    assert len(seeds) == 8 * 50 * 4
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
    torch.Generator().manual_seed(max(seeds))
