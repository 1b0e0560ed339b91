"""Functions learned in context: Interleaved against a GPT-2 written out, and what the benchmark's numbers rest on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.episodes import Examples
from metabox.learners.interleaved import Interleaved
from metabox.nn.backbones import Flatten
from metabox.targets import Classes, Reals, TaskSpec
from metabox.tasks import LinearFunctions
from metabox.tasks.functions.baselines import averaging, least_squares, ridge
from metabox.tasks.place import Place
from metabox.testing import build, make_episodes

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
CLASSES = TaskSpec((4,), Classes(3))
REALS = TaskSpec((2,), Reals(3))  # a target wider than the input


def make(spec: TaskSpec) -> Interleaved:
    return Interleaved(spec, backbone=Flatten, width=16, depth=2, heads=4, points=8)


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def normalised(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def plain_gpt2(learner: Interleaved, xs: list[Tensor], ys: list[Tensor]) -> Tensor:
    """Predictions `[N, P]` at the tokens of x in x_1, y_1, x_2, y_2, ..., x_N; position p sees 0 ... p."""
    size = learner.read_in.in_features
    vectors = [v for pair in zip(xs, [*ys, None], strict=False) for v in pair if v is not None][: 2 * len(xs) - 1]
    filled = torch.stack([torch.cat([v, torch.zeros(size - len(v))]) for v in vectors])
    tokens = filled @ learner.read_in.weight.T + learner.read_in.bias
    tokens = torch.stack([token + learner.positions[p] for p, token in enumerate(tokens)])
    width = tokens.shape[1]
    for layer in learner.transformer.layers:
        each = width // layer.heads
        normal = normalised(tokens, layer.norms[0])
        q = normal @ layer.query.weight.T + layer.query.bias
        k, v = (normal @ layer.key_value.weight.T + layer.key_value.bias).split(width, dim=-1)
        rows = []
        for p in range(len(tokens)):
            parts = []
            for head in range(layer.heads):
                part = slice(head * each, (head + 1) * each)
                weight = (k[: p + 1, part] @ q[p, part] / math.sqrt(each)).exp()
                parts.append(weight / weight.sum() @ v[: p + 1, part])
            rows.append(torch.cat(parts))
        tokens = tokens + torch.stack(rows) @ layer.out.weight.T + layer.out.bias
        first, last = layer.feed_forward[0], layer.feed_forward[2]
        hidden = gelu(normalised(tokens, layer.norms[1]) @ first.weight.T + first.bias)
        tokens = tokens + hidden @ last.weight.T + last.bias
    return (normalised(tokens, learner.transformer.norm) @ learner.read_out.weight.T + learner.read_out.bias)[::2]


@pytest.mark.parametrize("spec", [CLASSES, REALS], ids=str)
def test_interleaved_is_a_gpt2_over_inputs_and_targets_in_turn(spec: TaskSpec) -> None:
    learner, episodes = build(make, spec), make_episodes(spec)
    mask = torch.tensor([[True] * 6, [True, False, True, True, False, True], [False] * 6])
    s = Examples(x=episodes.support.x, y=episodes.support.y, mask=mask)
    got, streamed = learner.predict(learner.adapt(s), episodes.query.x), learner.stream(s)
    for t in range(3):
        xs, y = list(s.x[t][mask[t]]), s.y[t][mask[t]]
        ys = list(F.one_hot(y, 3).float() if spec.target.n_classes is not None else y)
        for m, x in enumerate(episodes.query.x[t]):
            torch.testing.assert_close(got[t, m], plain_gpt2(learner, [*xs, x], ys)[-1], rtol=1e-4, atol=1e-5)
        if xs:
            torch.testing.assert_close(streamed[t][mask[t]], plain_gpt2(learner, xs, ys), rtol=1e-4, atol=1e-5)


def test_a_step_of_the_stream_sees_no_later_example_and_not_its_own_target() -> None:
    learner, s = build(make, REALS), make_episodes(REALS).support
    before = learner.stream(s)
    for t in range(6):
        y = s.y.clone()
        y[:, t:] += 1
        after = learner.stream(Examples(x=s.x, y=y, mask=s.mask))
        assert torch.equal(after[:, : t + 1], before[:, : t + 1])
        assert (after[:, t + 1 :] != before[:, t + 1 :]).any(-1).all()


def test_the_table_of_positions_ends_with_the_query() -> None:
    learner = build(make, REALS)
    seven, eight = (make_episodes(REALS, n_support=n) for n in (7, 8))
    learner(seven)
    learner.stream(eight.support)
    with pytest.raises(ValueError, match=r"at most 8 examples, the query included, got 9; .* more `points`"):
        learner(eight)
    with pytest.raises(ValueError, match="got 9"):
        learner.stream(make_episodes(REALS, n_support=9).support)


@torch.no_grad()
def test_first_weights_are_those_of_gpt2() -> None:
    torch.manual_seed(0)
    learner = Interleaved(REALS, width=128, depth=8, heads=4)
    assert abs(float(learner.positions.std()) - 0.02) < 1e-3
    for layer in learner.transformer.layers:
        for linear in (layer.query, layer.key_value, layer.feed_forward[0]):
            assert abs(float(linear.weight.std()) - 0.02) < 1e-3
            assert not linear.bias.any()
        for linear in (layer.out, layer.feed_forward[2]):
            assert abs(float(linear.weight.std()) - 0.02 / 4) < 3e-4


@pytest.mark.parametrize("predictor", [averaging, least_squares], ids=lambda f: f.__name__)
def test_the_excess_error_of_a_predictor_is_its_squared_distance_to_ridge(predictor) -> None:
    """Ridge is the posterior mean, so its error is uncorrelated with everything that the support and x tell."""
    episodes = LinearFunctions(dim=5, noise=0.5, n_support=9, n_query=20, oracle=False).sample(Place(5000, "test"))
    x, y = episodes.query.x, episodes.query.y
    best, own = ridge(episodes.support, x, penalty=0.25), predictor(episodes.support, x)
    excess = (own - y).square() - (best - y).square()
    distance = (own - best).square()
    error = (excess - distance).mean((1, 2))  # by task
    assert float(error.mean().abs()) < 4 * float(error.std()) / math.sqrt(len(error))
    assert float(distance.mean()) > 20 * float(error.mean().abs())


def test_the_committed_regressor_is_within_ten_percent_of_ridge_beyond_dim() -> None:
    result = json.loads((RESULTS / "incontext-linear.json").read_text(encoding="utf-8"))
    assert result["run"]["training_seconds"] <= 600
    for row in result["prefixes"]:
        assert row["squared_error"] == pytest.approx(row["ridge"] * (1 + row["excess_percent"] / 100), rel=0.02)
        if row["examples"] > result["beyond_dim"]["dim"]:
            assert row["excess_percent"] <= 10
            assert row["excess_percent_of_error_without_noise"] <= 10
