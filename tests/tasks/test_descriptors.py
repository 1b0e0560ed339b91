"""Descriptors: what each kind says of a task, and that a learned task embedding is a linear layer on the one-hot."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from metabox.tasks.descriptors import (
    About,
    Beside,
    Descriptor,
    Metadata,
    NGrams,
    OneHot,
    Specification,
    Text,
    hash_token,
    hashed_counts,
)

USERS = [
    About(
        name="ann", features=(30, 1), text="wants news of sport", specification={"up": True, "kind": "sine", "dim": 2}
    ),
    About(
        name="bob", features=(50, 1), text="wants sport, no loans", specification={"dim": 3, "kind": "line", "up": True}
    ),
    About(name="cy", features=(40, 1), text="buys anything", specification={"up": False, "dim": 2, "kind": "sine"}),
]


def test_a_one_hot_is_the_identity_and_all_kinds_are_float32() -> None:
    torch.testing.assert_close(OneHot().vectors(USERS), torch.eye(3))
    for kind in (OneHot(), Metadata(), Text(), Specification(), Beside([OneHot(), Text()])):
        vectors = kind.vectors(USERS)
        assert vectors.dtype == torch.float32
        assert len(vectors) == 3
        assert vectors.isfinite().all()


def test_a_learned_task_embedding_is_a_linear_layer_on_the_one_hot() -> None:
    torch.manual_seed(0)
    embedding, linear = nn.Embedding(3, 5), nn.Linear(3, 5, bias=False)
    with torch.no_grad():
        linear.weight.copy_(embedding.weight.T)
    tasks = torch.tensor([2, 0, 2, 1])
    looked_up, computed = embedding(tasks), linear(OneHot().vectors(USERS)[tasks])
    assert torch.equal(looked_up, computed)
    direction = torch.randn(4, 5)
    looked_up.backward(direction)
    computed.backward(direction)
    torch.testing.assert_close(linear.weight.grad, embedding.weight.grad.T)


def test_metadata_are_standardised_over_the_tasks_and_a_constant_feature_is_zero() -> None:
    away = math.sqrt(1.5)  # 30, 50, 40 have mean 40 and variance 200 / 3
    torch.testing.assert_close(Metadata().vectors(USERS), torch.tensor([[-away, 0], [away, 0], [0, 0]]))
    torch.testing.assert_close(Metadata(standardise=False).vectors(USERS)[0], torch.tensor([30.0, 1.0]))


def test_a_specification_is_its_fields_in_order_of_their_names() -> None:
    # dim; kind: line, sine; up
    wanted = torch.tensor([[2.0, 0, 1, 1], [3, 1, 0, 1], [2, 0, 1, 0]])
    torch.testing.assert_close(Specification().vectors(USERS), wanted)


def test_descriptors_stand_side_by_side_with_the_one_hot_first() -> None:
    both = Beside([OneHot(), Metadata(), Text(NGrams(16))]).vectors(USERS)
    assert both.shape == (3, 3 + 2 + 16)
    torch.testing.assert_close(both[:, :3], torch.eye(3))
    torch.testing.assert_close(both[:, 3:5], Metadata().vectors(USERS))
    with pytest.raises(ValueError, match=r"OneHot first, got \['Text', 'OneHot'\]"):
        Beside([Text(), OneHot()])


def test_a_text_is_the_signed_count_of_its_n_grams_in_their_places() -> None:
    wanted = torch.zeros(8)
    for gram in (" a", "ab", "b ", " a", "ac", "c "):  # those of " ab ac "
        place, sign = hash_token(gram, 8)
        wanted[place] += sign
    wanted /= wanted.norm()
    torch.testing.assert_close(torch.tensor(NGrams(8, (2,))("AB \n ac")), wanted)


def test_texts_that_share_words_are_nearer_than_others_and_all_have_norm_1() -> None:
    sport, sport_no_loans, anything = Text().vectors(USERS)
    assert sport @ sport_no_loans > 2 * (sport @ anything).abs()
    torch.testing.assert_close(Text().vectors(USERS).norm(dim=1), torch.ones(3))


def test_products_of_hashed_texts_are_unbiased() -> None:
    """Weinberger et al. 2009, lemma 2: over hash functions, the mean product of two vectors is their true product."""
    encode = NGrams(64, (1,))
    pairs = [(chr(0x4E00 + 2 * i), chr(0x4E01 + 2 * i)) for i in range(3000)]  # letters that share nothing but spaces
    unhashed = 4 / 5  # two spaces each: (2 * 2) / (sqrt(5) * sqrt(5))
    products = [sum(a * b for a, b in zip(encode(x), encode(y), strict=True)) for x, y in pairs]
    assert abs(sum(products) / len(products) - unhashed) < 0.02


def test_a_hash_is_the_same_in_every_process() -> None:
    assert [hash_token(word, 1000) for word in ("offer", "münchen", "")] == [(624, -1), (44, 1), (378, -1)]
    assert hashed_counts(["a", "b", "a"], 1).tolist() == [3.0]


@pytest.mark.parametrize(
    ("kind", "tasks", "message"),
    [
        (Metadata(), [*USERS, About(name="dan")], "others of dan"),
        (Metadata(), [About(name="dan")], "at least 1"),
        (Metadata(), [About(name="dan", features=(math.nan,))], "finite"),
        (Text(), [*USERS, About(name="dan", text=" ")], "got none about dan"),
        (Text(lambda text: [0.0] * len(text)), USERS, "vectors of one length"),
        (Specification(), [*USERS, About(name="dan", specification={"dim": 1})], r"\['dan'\]"),
        (Specification(), [About(name="dan")], "at least one"),
        (
            Specification(),
            [About(name="a", specification={"f": 1.0}), About(name="b", specification={"f": "x"})],
            "got both",
        ),
    ],
)
def test_what_is_not_known_of_every_task_is_named(kind: Descriptor, tasks: list[About], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind.vectors(tasks)
