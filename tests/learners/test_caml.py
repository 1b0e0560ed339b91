"""CAML: its codes are an ELMES, its cache is full attention, and a class's code does not depend on its name."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.episodes import Episodes
from metabox.learners.caml import CAML, equiangular
from metabox.targets import Classes, TaskSpec
from metabox.testing import build, make_episodes, outputs

CLASSES = TaskSpec((4,), Classes(3))


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_the_codes_are_of_equal_length_and_maximally_equiangular(n: int) -> None:
    codes = equiangular(n).double()
    cosines = codes @ codes.T
    wanted = torch.full((n, n), -1 / (n - 1), dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(cosines, wanted, rtol=0, atol=1e-6)


def plain_caml(learner: CAML, episodes: Episodes, t: int, x: Tensor) -> Tensor:
    """Support and one query through the transformer with an explicit mask, layer by layer, nothing kept."""
    s = episodes.support
    features = [learner.embed.backbone(x_i) for x_i in s.x[t]]
    means: list[float] = []
    for c in range(3):
        mine = [h for h, y in zip(features, s.y[t], strict=True) if int(y) == c]
        along = torch.linspace(-1, 1, len(features[0]))
        means.append(((sum(mine) / len(mine)) @ along).item())
    by_place = sorted(range(3), key=lambda c: means[c])
    code = {c: learner.elmes[by_place.index(c)] for c in range(3)}
    tokens = [learner.token(torch.cat([h, code[int(y)]])) for h, y in zip(features, s.y[t], strict=True)]
    rows = torch.stack([*tokens, learner.token(torch.cat([learner.embed.backbone(x), learner.unknown]))])
    n = len(rows)
    visible = torch.tensor([[j < n - 1 for j in range(n)] + [True] for _ in range(n)])
    for block in learner.transformer.layers:
        size = rows.shape[1] // block.heads
        q = block.query(block.norms[0](rows))
        k, v = block.key_value(block.norms[0](rows)).split(rows.shape[1], dim=-1)
        seen = []
        for head in range(block.heads):
            part = slice(head * size, (head + 1) * size)
            keys = torch.cat([k[:, part], block.sink[0, head]])
            values = torch.cat([v[:, part], block.sink[1, head]])
            scores = (q[:, part] @ keys.T / math.sqrt(size)).masked_fill(~visible, -math.inf)
            seen.append(F.softmax(scores, dim=-1) @ values)
        rows = rows + block.out(torch.cat(seen, dim=-1))
        rows = rows + block.feed_forward(block.norms[1](rows))
    read = learner.readout(learner.transformer.norm(rows[-1]))
    return torch.stack([read @ code[c] for c in range(3)])


def test_caml_is_full_attention_over_support_and_one_query() -> None:
    learner, episodes = build(CAML, CLASSES), make_episodes(CLASSES)
    got = outputs(learner, episodes)
    for t in range(3):
        wanted = torch.stack([plain_caml(learner, episodes, t, x) for x in episodes.query.x[t]])
        torch.testing.assert_close(got[t], wanted, rtol=1e-4, atol=1e-5)


def test_a_class_without_support_takes_no_code_from_another() -> None:
    learner, episodes = build(CAML, CLASSES), make_episodes(CLASSES)
    mask = episodes.support.y != 1
    support = type(episodes.support)(x=episodes.support.x, y=episodes.support.y, mask=mask)
    codes = learner.adapt(support)["codes"]
    assert (codes[:, 1] == learner.elmes[2]).all()  # absent classes come last
