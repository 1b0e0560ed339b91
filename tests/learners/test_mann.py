"""MANN against a plain transcription of the paper's equations: one task, one query, one memory row at a time."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from learner_cases import CLASSES, DESCRIBED, REALS, doubled, embedding, in_double, ragged, real_examples
from torch import Tensor

from metabox.learners.mann import MANN
from metabox.nn.label_code import strings
from metabox.nn.memory import LRUMemory
from metabox.targets import TaskSpec
from metabox.testing import build, make_episodes, outputs

READINGS = [
    {},
    {"reads": "before"},
    {"gate": "emitted"},
    {"gate": "emitted", "reads": "before", "sharpness": 4.0},
    {"written": "separate"},
    {"least_used": "own", "begins": "first-row"},
    {"gate": "emitted", "written": "separate", "reads": "weights-before", "begins": "first-row", "sharpness": 4.0},
]
SMALL = {"rows": 7, "size": 5, "heads": 2, "width": 6}  # so few rows that they are used again


def cosine(a: Tensor, b: Tensor) -> float:
    """Equation 2; 0 for an empty row."""
    lengths = float(a @ a) ** 0.5 * float(b @ b) ** 0.5
    return float(a @ b) / lengths if lengths else 0.0


def plain_mann(learner: MANN, xs: list[Tensor], labels: list[Tensor]) -> list[Tensor]:
    """Scores at each step of a sequence with inputs (x_t, y_{t-1}); Santoro et al. 2016, equations 2 to 8."""
    m = learner.memory
    n_rows, n_heads = m.rows, m.heads
    first = m.begins == "first-row"
    rows = [torch.full((m.size,), 1e-6 * first, dtype=torch.double) for _ in range(n_rows)]
    one_hot = [float(first)] + [0.0] * (n_rows - 1)
    w_read, w_usage = [one_hot for _ in range(n_heads)], one_hot
    sharp = [1.0] * n_heads if m.log_sharpness is None else m.log_sharpness.exp().tolist()
    hidden, cell = torch.zeros(2, learner.cell.hidden_size, dtype=torch.double)
    r = torch.zeros(n_heads * m.size, dtype=torch.double)
    y, scores = torch.zeros_like(labels[0]), []
    for x, label in zip(xs, labels, strict=True):
        hidden, cell = learner.cell(torch.cat([x, y, r]), (hidden, cell))
        keys = list(m.key(hidden).tanh().view(n_heads, m.size))
        written = keys if m.value is None else list(m.value(hidden).tanh().view(n_heads, m.size))
        alpha = m.emit_alpha(hidden) if m.emit_alpha else m.alpha
        gates = [1 / (1 + math.exp(-float(a))) for a in alpha]

        by_usage = sorted(range(n_rows), key=lambda i: (w_usage[i], i))
        least = [[by_usage[h]] if m.least_used == "own" else by_usage[:n_heads] for h in range(n_heads)]
        w_lu = [[float(i in of_head) for i in range(n_rows)] for of_head in least]  # equation 6
        w_write = [
            [g * r_i + (1 - g) * lu_i for r_i, lu_i in zip(w_r, lu, strict=True)]
            for g, w_r, lu in zip(gates, w_read, w_lu, strict=True)
        ]
        after = list(rows)
        after[by_usage[0]] = torch.zeros(m.size, dtype=torch.double)
        after = [row + sum(w[i] * k for w, k in zip(w_write, written, strict=True)) for i, row in enumerate(after)]  # 8

        compared, summed = after if m.reads == "after" else rows, rows if m.reads == "before" else after
        cosines = [torch.tensor([cosine(k, row) for row in compared], dtype=torch.double) for k in keys]
        w_read = [(b * c).softmax(0).tolist() for b, c in zip(sharp, cosines, strict=True)]  # equation 3
        r = torch.cat([sum(w_i * row for w_i, row in zip(w, summed, strict=True)) for w in w_read])  # equation 4
        w_usage = [
            m.decay * u + sum(w[i] for w in w_read) + sum(w[i] for w in w_write) for i, u in enumerate(w_usage)
        ]  # equation 5
        rows, y = after, label
        scores.append(learner.readout(torch.cat([hidden, r])))
    return scores


def vector(spec: TaskSpec, y: Tensor) -> Tensor:
    return F.one_hot(y, spec.target.size).double() if spec.target.n_classes is not None else y


@torch.no_grad()
@pytest.mark.parametrize("reading", READINGS, ids=str)
@pytest.mark.parametrize("spec", [CLASSES, DESCRIBED, REALS], ids=str)
def test_a_query_is_one_more_step_of_the_plain_equations(spec: TaskSpec, reading: dict) -> None:
    learner, episodes = build(partial(MANN, **SMALL, **reading), spec).double(), in_double(ragged(spec))
    got = outputs(learner, episodes)
    for t in range(3):
        features, seen = embedding(learner, episodes, t), real_examples(episodes.support, t)
        labels = [vector(spec, y) for _, y in seen] + [torch.zeros(spec.target.size).double()]
        for i, x in enumerate(episodes.query.x[t]):
            wanted = plain_mann(learner, [features(x_i) for x_i, _ in seen] + [features(x)], labels)[-1]
            torch.testing.assert_close(got[t, i], wanted, rtol=1e-6, atol=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("reading", READINGS, ids=str)
def test_streaming_is_the_plain_equations_at_every_step(reading: dict) -> None:
    learner = build(partial(MANN, **SMALL, **reading), CLASSES).double()
    sequence = doubled(make_episodes(CLASSES, n_support=15).support)  # more steps than there are rows
    got = learner.stream(sequence)
    for t in range(3):
        xs = [learner.embed.backbone(x) for x in sequence.x[t]]
        wanted = plain_mann(learner, xs, [vector(CLASSES, y) for y in sequence.y[t]])
        torch.testing.assert_close(got[t], torch.stack(wanted), rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_labels_that_are_strings_are_the_plain_equations_with_strings() -> None:
    learner = build(partial(MANN, **SMALL, labels="strings"), CLASSES).double()
    sequence = doubled(make_episodes(CLASSES).support)
    scores = plain_mann(
        learner, [learner.embed.backbone(x) for x in sequence.x[1]], list(strings(3)[sequence.y[1]].double())
    )
    wanted = torch.stack(scores).view(6, 5, 5).log_softmax(-1)
    characters = strings(3).view(3, 5, 5)
    wanted = torch.stack([(wanted * characters[c]).sum((1, 2)) for c in range(3)], -1)
    torch.testing.assert_close(learner.stream(sequence)[1].double(), wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_one_access_erases_the_least_used_row_writes_and_then_reads() -> None:
    """By hand: two heads, the rows' usage 3, 1, 2, 5, and alpha 0: half of a key goes to what its head read last."""
    torch.manual_seed(0)
    memory = LRUMemory(3, rows=4, size=2, heads=2)
    state = {
        "memory": torch.tensor([[[1.0, 0.0], [9.0, 9.0], [0.0, 2.0], [1.0, 1.0]]]),
        "read": torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]]),
        "square": torch.tensor([[1.0, 162.0, 4.0, 2.0]]),
        "usage": torch.tensor([[3.0, 1.0, 2.0, 5.0]]),
        "vectors": torch.zeros(1, 4),
    }
    access = memory(state, torch.randn(1, 1, 3))
    k, m = access.written[0, 0]
    after = memory.advance(state, access, torch.tensor([True]))
    wanted = [torch.tensor([1.0, 0.0]) + k / 2, (k + m) / 2, torch.tensor([0.0, 2.0]) + (k + m) / 2, 1 + m / 2]
    torch.testing.assert_close(after["memory"][0], torch.stack(wanted))
    torch.testing.assert_close(after["square"], after["memory"].square().sum(-1))
    torch.testing.assert_close(after["read"].sum(-1), torch.ones(1, 2))
    torch.testing.assert_close(after["vectors"].view(2, 2), after["read"][0] @ after["memory"][0])
    write = torch.tensor([[0.5, 0.5, 0.5, 0.0], [0.0, 0.5, 0.5, 0.5]])
    torch.testing.assert_close(after["usage"][0], 0.95 * state["usage"][0] + (after["read"][0] + write).sum(0))


def test_serving_many_queries_makes_no_copy_of_the_memory() -> None:
    learner = build(partial(MANN, rows=64, size=32), CLASSES)
    phi = learner.adapt(make_episodes(CLASSES).support)
    with torch.no_grad():
        _, (_, _, access) = learner.step(phi, learner.project(torch.randn(3, 50, learner.in_size)))
    assert max(part.numel() for part in access) <= 3 * 50 * 64 * 4  # weights [T, M, H, R]; copies would be 8 times that


def test_a_long_sequence_has_finite_gradients() -> None:
    learner = build(MANN, CLASSES).train()
    learner.stream(make_episodes(CLASSES, n_support=60).support).square().mean().backward()
    largest = max(float(p.grad.abs().max()) for p in learner.parameters())
    assert 0 < largest < 100


def test_a_memory_of_fewer_rows_than_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at most as many heads as rows, got 4 heads for 3 rows"):
        MANN(CLASSES, rows=3)
