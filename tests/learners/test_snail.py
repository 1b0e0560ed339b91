"""SNAIL against its plain sequential definition: the whole sequence is rebuilt for every query, and nothing is kept."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from learner_cases import CLASSES, KINDS, embedding, ragged, real_examples
from torch import Tensor

from metabox import recipe
from metabox.episodes import Examples
from metabox.learners.snail import SNAIL
from metabox.nn.causal import CausalAttention, DenseBlock
from metabox.targets import Classes, TaskSpec
from metabox.testing import build, make_episodes, outputs

SMALL = {"width": 6, "horizon": 9, "filters": 4, "attention": ((3, 2), (5, 4), (4, 6))}


def causal_convolution(x: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
    """torch's own convolution over `[N, D]`, with zeros before the first position."""
    return F.conv1d(F.pad(x.T[None], (dilation, 0)), weight, bias, dilation=dilation)[0].T


def plain_dense_block(block: DenseBlock, x: Tensor) -> Tensor:
    kernel = torch.stack(block.taps.weight.chunk(2, dim=1), dim=-1)  # [2 * filters, D, 2], the earlier tap first
    halves = zip(kernel.chunk(2), block.taps.bias.chunk(2), strict=True)
    f, g = (causal_convolution(x, weight, bias, block.dilation) for weight, bias in halves)
    return torch.cat([x, f.tanh() * g.sigmoid()], dim=-1)


def plain_attention_block(block: CausalAttention, x: Tensor) -> Tensor:
    logits = block.query(x) @ block.key(x).T / math.sqrt(block.key.out_features)
    causal = torch.ones_like(logits).tril().bool()
    return torch.cat([x, logits.masked_fill(~causal, -math.inf).softmax(dim=1) @ block.value(x)], dim=-1)


def plain_snail(learner: SNAIL, support: list[tuple[Tensor, Tensor]], query: Tensor) -> Tensor:
    """The tokens (x_1, y_1), ..., (x_N, y_N), (x, 0) of features and label vectors; the last position's prediction."""
    tokens = [torch.cat([learner.project(x), y]) for x, y in support]
    x = torch.stack([*tokens, torch.cat([learner.project(query), torch.zeros(learner.spec.target.size)])])
    for block in learner.blocks:
        x = plain_dense_block(block, x) if isinstance(block, DenseBlock) else plain_attention_block(block, x)
    return learner.readout(x[-1])


def vector(spec: TaskSpec, y: Tensor) -> Tensor:
    return F.one_hot(y, spec.target.size).float() if spec.target.n_classes is not None else y


@torch.no_grad()
@pytest.mark.parametrize("width", [6, None])
@pytest.mark.parametrize("n_support", [0, 1, 6, 40])  # 40 is beyond the horizon
@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_a_query_is_answered_as_if_it_stood_alone_after_the_support(
    spec: TaskSpec, n_support: int, width: int | None
) -> None:
    learner = build(partial(SNAIL, **SMALL | {"width": width}), spec)
    episodes = ragged(spec) if n_support == 6 else make_episodes(spec, n_support=n_support)
    got = outputs(learner, episodes)
    for t in range(3):
        features = embedding(learner, episodes, t)
        support = [(features(x), vector(spec, y)) for x, y in real_examples(episodes.support, t)]
        wanted = torch.stack([plain_snail(learner, support, features(x)) for x in episodes.query.x[t]])
        torch.testing.assert_close(got[t], wanted, rtol=1e-4, atol=1e-5)


def test_on_miniimagenet_all_features_of_the_embedding_are_read() -> None:
    parser = recipe.make_parser(recipe.find("miniimagenet-5w1s-snail"))
    config = recipe.parse(parser, [])
    config.tasks, config.evaluation = None, None  # which would open data
    learner = parser.instantiate(config).learner(TaskSpec((3, 84, 84), Classes(5)))
    assert learner.embed.out_features == 384
    assert learner.blocks[0].query.in_features == 384 + 5  # and the label


@torch.no_grad()
def test_streaming_is_the_plain_definition_at_every_step() -> None:
    learner, sequence = build(partial(SNAIL, **SMALL), CLASSES), make_episodes(CLASSES, n_support=20).support
    mask = torch.rand(3, 20, generator=torch.Generator().manual_seed(0)) < 0.7
    mask[0] = True
    got = learner.stream(replace(sequence, mask=mask))
    for t in range(3):
        steps = [
            (learner.embed.backbone(x), vector(CLASSES, y)) for x, y in zip(sequence.x[t], sequence.y[t], strict=True)
        ]
        for i in mask[t].nonzero().flatten().tolist():
            before = [step for j, step in enumerate(steps[:i]) if mask[t, j]]
            torch.testing.assert_close(got[t, i], plain_snail(learner, before, steps[i][0]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_published_sizes_are_the_plain_definition_too() -> None:
    learner, episodes = build(partial(SNAIL, horizon=6), CLASSES), ragged(CLASSES)
    support = [(learner.embed.backbone(x), vector(CLASSES, y)) for x, y in real_examples(episodes.support, 1)]
    wanted = plain_snail(learner, support, learner.embed.backbone(episodes.query.x[1, 2]))
    torch.testing.assert_close(outputs(learner, episodes)[1, 2], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("horizon", "n_blocks"), [(6, 3), (21, 5), (26, 5), (101, 7)])
def test_the_blocks_are_those_of_the_paper(horizon: int, n_blocks: int) -> None:
    learner = SNAIL(replace(CLASSES, target=Classes(5)), horizon=horizon)
    dilations = [block.dilation for block in learner.blocks if isinstance(block, DenseBlock)]
    assert dilations == [2**i for i in range(1, n_blocks + 1)] * 2
    read = [(b.key.out_features, b.value.out_features) for b in learner.blocks if isinstance(b, CausalAttention)]
    assert read == [(64, 32), (256, 128), (512, 256)]
    assert learner.readout.in_features == 64 + 5 + 32 + 128 * n_blocks + 128 + 128 * n_blocks + 256


def test_predicting_reads_no_support_and_what_is_kept_of_a_convolution_does_not_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = build(partial(SNAIL, **SMALL), CLASSES)
    short, long = (learner.adapt(make_episodes(CLASSES, n_support=n).support) for n in (5, 50))
    assert {name: part.shape for name, part in short.items() if "echo" in name} == {
        name: part.shape for name, part in long.items() if "echo" in name
    }
    with monkeypatch.context() as patch:
        for block in (DenseBlock, CausalAttention):
            patch.setattr(block, "remember", lambda *_: pytest.fail("the support was read again"))
        learner.predict(long, make_episodes(CLASSES).query.x)


def test_an_example_does_not_see_later_ones() -> None:
    learner, sequence = build(partial(SNAIL, **SMALL), CLASSES), make_episodes(CLASSES, n_support=12).support
    other = make_episodes(CLASSES, n_support=12, seed=1).support
    mixed = Examples(
        x=torch.cat([sequence.x[:, :8], other.x[:, 8:]], 1), y=torch.cat([sequence.y[:, :7], other.y[:, 7:]], 1)
    )
    before, after = learner.stream(sequence), learner.stream(mixed)
    torch.testing.assert_close(after[:, :8], before[:, :8])  # the label of step 7 itself comes after its prediction
    assert not torch.allclose(after[:, 8:], before[:, 8:])


def test_no_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="expected attention with a block"):
        SNAIL(CLASSES, attention=())
