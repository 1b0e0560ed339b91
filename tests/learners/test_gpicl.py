"""GPICL against one causal transformer over the whole sequence, rebuilt for every query."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.episodes import Examples
from metabox.learners.gpicl import GPICL
from metabox.targets import Classes, Reals, TaskSpec
from metabox.testing import build, make_episodes

CLASSES = TaskSpec((4,), Classes(3))
REALS = TaskSpec((2,), Reals(2))


def plain_gpicl(learner: GPICL, xs: list[Tensor], ys: list[Tensor]) -> Tensor:
    """Predictions `[N, P]` of a sequence: token i is (x_i, y_{i-1}) and its place, position i sees 0 ... i."""
    late = [torch.zeros(learner.spec.target.size), *ys][: len(xs)]
    rows = []
    for i, (x, y) in enumerate(zip(xs, late, strict=True)):
        row = learner.token(torch.cat([learner.embed.backbone(x), y]))
        half = len(row) // 2
        angles = [i * 1e4 ** (-j / half) for j in range(half)]
        rows.append(row + torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles]))
    tokens = torch.stack(rows)
    n, width = tokens.shape
    for layer in learner.transformer.layers:
        size = width // layer.heads
        q = layer.query(layer.norms[0](tokens))
        k, v = layer.key_value(layer.norms[0](tokens)).split(width, dim=-1)
        seen = []
        for head in range(layer.heads):
            part = slice(head * size, (head + 1) * size)
            scores = (q[:, part] @ k[:, part].T / math.sqrt(size)).masked_fill(
                torch.ones(n, n).triu(1).bool(), -math.inf
            )
            seen.append(F.softmax(scores, dim=-1) @ v[:, part])
        tokens = tokens + layer.out(torch.cat(seen, dim=-1))
        tokens = tokens + layer.feed_forward(layer.norms[1](tokens))
    return learner.readout(learner.transformer.norm(tokens))


@pytest.mark.parametrize("spec", [CLASSES, REALS], ids=str)
def test_gpicl_answers_each_query_as_the_step_after_the_support(spec: TaskSpec) -> None:
    learner, episodes = build(GPICL, spec), make_episodes(spec)
    mask = torch.tensor([[True] * 6, [True, False, True, True, False, True], [False] * 6])
    s = Examples(x=episodes.support.x, y=episodes.support.y, mask=mask)
    got, streamed = learner.predict(learner.adapt(s), episodes.query.x), learner.stream(s)
    for t in range(3):
        xs = list(s.x[t][mask[t]])
        y = s.y[t][mask[t]]
        ys = list(F.one_hot(y, 3).float() if spec.target.n_classes is not None else y)
        for m, x in enumerate(episodes.query.x[t]):
            torch.testing.assert_close(got[t, m], plain_gpicl(learner, [*xs, x], ys)[-1], rtol=1e-4, atol=1e-5)
        if xs:
            torch.testing.assert_close(streamed[t][mask[t]], plain_gpicl(learner, xs, ys), rtol=1e-4, atol=1e-5)
