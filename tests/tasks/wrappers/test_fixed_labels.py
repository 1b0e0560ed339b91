"""Labels as strings of five characters, what goes in and what comes out; and tasks whose labels are drawn from many."""

from __future__ import annotations

from functools import partial
from itertools import combinations, product

import numpy as np
import pytest
import torch
from numbered import Numbered, Tasks

from metabox.episodes import Examples
from metabox.learners.lstm import LSTM
from metabox.learners.mann import MANN
from metabox.nn.label_code import LabelCode, strings
from metabox.targets import Classes, Reals, TaskSpec
from metabox.tasks.place import Place
from metabox.testing import CHECKS, SPECS

MANY = TaskSpec((4,), Classes(3125))
WORDS = ["".join(word) for word in product("abcde", repeat=5)]  # in the order of the dictionary


# ------------------------------------------------------------------------- strings


def test_the_ids_are_the_strings_of_five_characters_in_the_order_of_the_dictionary() -> None:
    table = strings(3125).view(3125, 5, 5)
    assert (table.sum(-1) == 1).all()
    assert ["".join("abcde"[i] for i in row) for row in table.long().argmax(-1).tolist()] == WORDS


def test_a_label_goes_in_as_five_one_hot_vectors_and_padding_as_zeros() -> None:
    code = LabelCode(MANY, "strings")
    mask = torch.tensor([[True, True, False]])
    got = code.encode(Examples(x=torch.zeros(1, 3, 4), y=torch.tensor([[7, 3124, -1]]), mask=mask))
    assert WORDS[7] == "aaabc"
    assert got.shape == (1, 3, 25)
    assert got[0, 0].nonzero().flatten().tolist() == [0, 5, 10, 16, 22]
    assert got[0, 1].nonzero().flatten().tolist() == [4, 9, 14, 19, 24]
    assert not got[0, 2].any()


def test_the_probability_of_a_string_is_the_product_of_those_of_its_characters() -> None:
    scores = torch.randn(2, 3, 25)
    logits = LabelCode(MANY, "strings").decode(scores)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(2, 3))  # as they come: they are log probabilities
    p = scores[1, 2].view(5, 5).softmax(-1)
    for c in (0, 1, 626, 3124):
        wanted = 1.0
        for k, character in enumerate(WORDS[c]):
            wanted *= float(p[k, "abcde".index(character)])
        assert float(logits[1, 2, c].exp()) == pytest.approx(wanted, rel=1e-4)


def test_fewer_classes_are_the_first_strings() -> None:
    scores = torch.randn(1, 2, 25)
    few = LabelCode(TaskSpec((4,), Classes(7)), "strings").decode(scores)
    torch.testing.assert_close(few, LabelCode(MANY, "strings").decode(scores)[..., :7])


def test_in_bf16_the_strings_are_scored_in_float32() -> None:
    code, scores = LabelCode(MANY, "strings"), torch.randn(1, 1, 25)
    with torch.autocast("cpu", torch.bfloat16):
        got = code.decode(scores)
    assert torch.equal(got, code.decode(scores))


def test_the_table_of_strings_is_no_part_of_the_weights() -> None:
    assert not LabelCode(MANY, "strings").state_dict()
    assert LSTM(MANY, labels="strings").config["labels"] == "strings"


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (TaskSpec((4,), Classes(3126)), "strings"),
        (TaskSpec((4,), Reals(2)), "strings"),
        (TaskSpec((4,), Classes(3)), "words"),
    ],
)
def test_labels_that_cannot_be_written_are_refused(spec: TaskSpec, kind: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        LabelCode(spec, kind)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("make", [LSTM, MANN])
def test_a_learner_of_strings_conforms(make: type, check: str) -> None:
    CHECKS[check](partial(make, labels="strings"), SPECS["classes of vectors"])


# ------------------------------------------------------------------ labels drawn from many


def test_named_tasks_are_the_unnamed_ones_with_new_names() -> None:
    kwargs = {"n_way": (2, 4), "n_shot": (1, 3), "n_query": 2}
    plain, named = (Tasks(**kwargs, names=n).sample(Place(20, "train", index=3)) for n in (None, 100))
    for a, b in ((plain.support, named.support), (plain.query, named.query)):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.mask, b.mask)
    assert torch.equal(plain.origin, named.origin)
    assert named.classes is not None
    assert named.classes.all()
    assert Tasks(**kwargs, names=100).spec.target.size == 100
    for t in range(20):
        pairs = set()
        for a, b in ((plain.support, named.support), (plain.query, named.query)):
            pairs |= set(zip(a.y[t][a.mask[t]].tolist(), b.y[t][b.mask[t]].tolist(), strict=True))
            assert not b.y[t][~b.mask[t]].any()
        # one name for each class, and no two classes of one name
        assert len(pairs) == len(dict(pairs)) == len({new for _, new in pairs}) == int(plain.classes[t].sum())


@pytest.mark.parametrize("names", [4, 5, 60])  # drawn by sorting keys, and by rejection
def test_every_choice_of_names_is_equally_likely_and_none_comes_twice(names: int) -> None:
    n = 30000
    episodes = Tasks(Numbered(sizes=np.full(80, 20)), n_way=2, n_query=1, names=names).sample(Place(n, "train"))
    order = episodes.origin[:, :2].argsort(1)  # by class, so that the order of the support plays no part
    pairs = episodes.support.y.take_along_dim(order, 1)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    count = torch.zeros(names, names).index_put_(tuple(pairs.T), torch.ones(n), accumulate=True)
    assert count.diagonal().sum() == 0
    cells = names * (names - 1)
    chi2 = float(((count[~torch.eye(names, dtype=torch.bool)] - n / cells) ** 2 / (n / cells)).sum())
    assert abs(chi2 - (cells - 1)) < 5 * (2 * (cells - 1)) ** 0.5


def test_names_do_not_depend_on_the_batch_that_a_task_is_drawn_in() -> None:
    whole = Tasks(n_way=3, names=50).sample(Place(6, "train", index=7, seed=1))
    walking = Tasks(n_way=3, names=50)
    for index in range(4, 8):  # from the second on, several indices are drawn at once
        last = walking.sample(Place(6, "train", index=index, seed=1))
    part = Tasks(n_way=3, names=50).sample(Place(2, "train", index=7, first=3, seed=1))
    assert torch.equal(last.support.y, whole.support.y)
    assert torch.equal(part.query.y, whole.query.y[3:5])
    assert not torch.equal(
        Tasks(n_way=3, names=50).sample(Place(6, "train", index=8, seed=1)).support.y, whole.support.y
    )


def test_names_are_scored_over_all_of_them() -> None:
    sampler = Tasks(n_way=3, names=3125)
    episodes = sampler.sample(Place(2, "train"))
    sampler.spec.check_episodes(episodes)
    log_p = sampler.spec.target.log_prob(torch.zeros(2, 45, 3125), episodes.query.y)
    torch.testing.assert_close(log_p, torch.full((2, 45), -float(np.log(3125))))


def test_fewer_names_than_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected names for at least the 5 classes of a task, got 4"):
        Tasks(n_way=5, names=4)


def test_two_classes_have_two_names_in_every_task_of_fifteen() -> None:
    y = Tasks(n_way=15, n_query=1, names=3125).sample(Place(200, "train")).support.y
    assert all((y[:, i] != y[:, j]).all() for i, j in combinations(range(15), 2))
