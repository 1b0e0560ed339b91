"""ConvCNP against a transcription with loops, its symmetry; ACNP against a transcription."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.episodes import Episodes, Examples
from metabox.learners.acnp import ACNP
from metabox.learners.convcnp import ConvCNP
from metabox.nn.grid import Grid, SetConv
from metabox.targets import Reals, TaskSpec
from metabox.targets.spec import Scale
from metabox.testing import SPECS, build, make_episodes, outputs

LINE, PLANE = TaskSpec((1,), Reals(1)), TaskSpec((2,), Reals(3))
SMALL = partial(ConvCNP, points_per_unit=8, width=8, depth=2)


def examples(x: Tensor, y: Tensor) -> Examples:
    return Examples(x=x, y=y, mask=torch.ones(x.shape[:2], dtype=torch.bool))


def plain_convcnp(learner: ConvCNP, support: Examples, x: Tensor, t: int) -> Tensor:
    """Predictions for the queries `x [M, d]` of task t: sums over points and grid points, one at a time."""
    grid, dim = learner.encode.grid, x.shape[1]
    axis = [grid.first + i / grid.points_per_unit for i in range(grid.size)]
    points = [(a,) for a in axis] if dim == 1 else [(a, b) for a in axis for b in axis]

    def bell(p: tuple[float, ...], q: Tensor, layer: SetConv) -> float:
        squared = sum((a - float(b)) ** 2 for a, b in zip(p, q, strict=True))
        return math.exp(-0.5 * squared / float(layer.log_scale.exp()) ** 2)

    on_grid = torch.zeros(1 + support.y.shape[2], len(points))
    for place, p in enumerate(points):
        for i in range(support.x.shape[1]):
            if support.mask[t, i]:
                weight = bell(p, support.x[t, i], learner.encode)
                on_grid[0, place] += weight
                on_grid[1:, place] += weight * support.y[t, i]
    on_grid[1:] /= on_grid[0] + 1e-8
    h = on_grid.unflatten(1, (grid.size,) * dim)[None]
    conv, up = (F.conv1d, F.conv_transpose1d) if dim == 1 else (F.conv2d, F.conv_transpose2d)
    skips = []
    for layer in learner.cnn.down:
        h = conv(h, squeezed(layer.weight, dim), layer.bias, stride=2, padding=2).relu()
        skips.append(h)
    for i, layer in enumerate(learner.cnn.up):
        h = h if i == 0 else torch.cat([h, skips[-1 - i]], 1)
        h = up(h, squeezed(layer.weight, dim), layer.bias, stride=2, padding=2, output_padding=1).relu()
    field = torch.einsum("pw,wg->gp", learner.readout.weight, h[0].flatten(1)) + learner.readout.bias
    found = [sum(bell(p, q, learner.decode) * field[place] for place, p in enumerate(points)) for q in x]
    return torch.stack(found)  # type: ignore[arg-type]


def squeezed(weight: Tensor, dim: int) -> Tensor:
    return weight.squeeze(2) if dim == 1 else weight


@pytest.mark.parametrize("spec", [LINE, PLANE], ids=["one input", "two inputs"])
def test_the_convcnp_is_its_transcription_with_loops(spec: TaskSpec) -> None:
    options = {"points_per_unit": 8.0} if spec is LINE else {"points_per_unit": 2.0, "domain": (-1.0, 1.0)}
    learner = build(partial(ConvCNP, width=4, depth=2, **options), spec)
    with torch.no_grad():
        learner.decode.log_scale += 0.3  # unlike that of the encoder
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.rand(2, 9, *spec.x_shape, generator=generator) - 1
    y = torch.randn(2, 9, spec.target.size, generator=generator)
    support = replace(examples(x[:, :5], y[:, :5]), mask=torch.tensor([[True] * 5, [True, False, True, True, False]]))
    with torch.no_grad():
        got = learner.predict(learner.adapt(support), x[:, 5:])
        wanted = torch.stack([plain_convcnp(learner, support, x[t, 5:], t) for t in range(2)])
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", [LINE, PLANE], ids=["one input", "two inputs"])
def test_moving_support_and_query_together_moves_the_predictions(spec: TaskSpec) -> None:
    learner = build(partial(ConvCNP, points_per_unit=4, width=8, depth=2, domain=(-8.0, 8.0)), spec)
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(3, 9, *spec.x_shape, generator=generator)
    y = torch.randn(3, 5, spec.target.size, generator=generator)
    step = 2**2 / 4  # the coarsest spacing
    shift = torch.tensor([1.0, -2.0][: x.shape[-1]]) * step
    with torch.no_grad():
        here = learner.predict(learner.adapt(examples(x[:, :5], y)), x[:, 5:])
        there = learner.predict(learner.adapt(examples(x[:, :5] + shift, y)), x[:, 5:] + shift)
        stayed = learner.predict(learner.adapt(examples(x[:, :5], y)), x[:, 5:] + shift)
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(stayed, here, atol=1e-3)


def test_a_grid_covers_its_range_and_its_margins_and_divides_by_the_coarsest_level() -> None:
    grid = Grid(1, -2.0, 2.0, points_per_unit=10, multiple=8)
    assert grid.size % 8 == 0
    at = grid.first + torch.arange(grid.size) / 10
    assert float(at[0]) <= -2.1 + 1e-6
    assert float(at[-1]) >= 2.1 - 1e-6 - 1 / 10
    torch.testing.assert_close(at, -at.flip(0))
    _, near = grid.weights(at[None, :, None], torch.tensor(0.05))
    assert torch.equal(near[0].argmax(-1), torch.arange(grid.size))


@pytest.mark.parametrize("scale", ["none", "training"])
def test_inputs_outside_the_grid_are_named_but_not_padding(scale: Scale) -> None:
    learner, episodes = build(SMALL, replace(LINE, scale=scale)), make_episodes(LINE)
    if learner.scaler is not None:
        learner.scaler.x.copy_(torch.tensor([[20.0], [0.5]]))
    s = episodes.support if scale == "none" else replace(episodes.support, x=20 + 0.5 * episodes.support.x)
    phi = learner.adapt(s)
    assert learner.predict(phi, torch.zeros(3, 4, 1)).isfinite().all()  # a batch with padding
    with pytest.raises(ValueError, match=r"on the grid, from -2\.\d+ to 2\.\d+, got .* wider domain"):
        learner.predict(phi, s.x + torch.tensor([0.0, 0, 0, 0, 0, 70])[:, None])
    with pytest.raises(ValueError, match="on the grid"):
        learner.adapt(replace(s, x=s.x + 70))
    mask = s.mask.clone()
    mask[:, 0] = False
    learner.adapt(replace(s, x=torch.cat([s.x[:, :1] + 70, s.x[:, 1:]], 1), mask=mask))


def test_the_memory_of_a_grid_is_bounded_before_it_is_allocated() -> None:
    with pytest.raises(ValueError, match=r"at most 1 GiB a task, got .* use points_per_unit=1.* or less"):
        ConvCNP(LINE, domain=(0.0, 657_000.0))
    ConvCNP(LINE, domain=(0.0, 657_000.0), points_per_unit=1.0)
    with pytest.raises(ValueError, match="points_per_unit"):
        ConvCNP(PLANE, domain=(-1e300, 1e300))
    learner = ConvCNP(LINE, domain=(0.0, 657_000.0), points_per_unit=1.0).train()
    with pytest.raises(ValueError, match=r"at most 64 GiB together, got 100 of .* smaller points_per_unit"):
        learner.adapt(examples(torch.zeros(100, 1, 1), torch.zeros(100, 1, 1)))


def test_a_far_example_of_the_same_task_changes_little_and_a_near_one_much() -> None:
    """What is beyond the receptive field of the U-Net cannot be seen."""
    learner = build(partial(ConvCNP, points_per_unit=4, width=8, depth=1, domain=(-8.0, 8.0)), LINE)
    x, y = torch.tensor([[[0.0], [0.3]]]), torch.tensor([[[1.0], [-1.0]]])
    query = torch.tensor([[[0.1]]])

    def predicted(extra: float) -> Tensor:
        more = examples(torch.cat([x, torch.full((1, 1, 1), extra)], 1), torch.cat([y, torch.ones(1, 1, 1)], 1))
        with torch.no_grad():
            return learner.predict(learner.adapt(more), query)

    torch.testing.assert_close(predicted(7.0), predicted(-7.0), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(predicted(7.0), predicted(0.2), atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "options", "says"),
    [
        (TaskSpec((3,), Reals(1)), {}, "x_shape"),
        (TaskSpec((3, 8, 8), Reals(1)), {}, "x_shape"),
        (LINE, {"domain": (1.0, 1.0)}, "low < high"),
        (LINE, {"kernel": 4}, "odd kernel"),
        (LINE, {"depth": 0}, "depth"),
        (LINE, {"points_per_unit": 0.0}, "points_per_unit"),
    ],
)
def test_what_cannot_be_is_refused(spec: TaskSpec, options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ConvCNP(spec, **options)  # type: ignore[arg-type]


def test_beyond_the_grid_queries_may_be_answered_as_at_its_end_and_support_left_out() -> None:
    learner = build(partial(SMALL, beyond="edge"), LINE)
    assert (learner.beyond, SMALL(LINE).beyond) == ("edge", "error")
    assert SMALL(replace(LINE, scale="support")).beyond == "edge"
    low, high = learner.encode.grid.ends
    x, y = torch.tensor([[[0.0], [0.3], [high + 0.01]]]), torch.tensor([[[1.0], [-1.0], [9.0]]])
    with torch.no_grad():
        phi, near = learner.adapt(examples(x, y)), learner.adapt(examples(x[:, :2], y[:, :2]))
        ends = learner.predict(phi, torch.tensor([[[low], [high]]]))
        assert torch.equal(learner.predict(phi, torch.tensor([[[-1e4], [1e4]]])), ends)
        assert torch.equal(phi["field"], near["field"])


def test_at_the_scale_of_the_support_it_takes_any_unit() -> None:
    learner = build(SMALL, replace(LINE, scale="support"))
    x, y = torch.linspace(0, 1, 9, dtype=torch.float64)[None, :, None], torch.randn(1, 9, 1).double()
    with torch.no_grad():
        plain = learner.predict(learner.adapt(examples(x, y)), x)
        other = learner.predict(learner.adapt(examples(6570 * x - 50, 3 * y + 5000)), 6570 * x - 50)
    target = learner.spec.target
    torch.testing.assert_close(target.mean(other), 3 * target.mean(plain) + 5000, rtol=0, atol=2e-3)
    torch.testing.assert_close(target.std(other), 3 * target.std(plain), rtol=1e-3, atol=0)


# ------------------------------------------------------------------ ACNP


def plain_acnp(learner: ACNP, episodes: Episodes, t: int) -> Tensor:
    """Task t without padding, one query at a time: softmax over a dot product of each head, then the decoder."""
    attention, mask = learner.attention, episodes.support.mask[t]
    h = learner.embed.backbone.layers(episodes.support.x[t][mask])
    codes = learner.encoder.perceptron(torch.cat([h, episodes.support.y[t][mask]], -1))
    width = codes.shape[1] // 8
    keys = attention.key(attention.represent(h))
    values = attention.value(codes)
    rows = []
    for x in episodes.query.x[t]:
        own = learner.embed.backbone.layers(x[None])
        query, read = attention.query(attention.represent(own))[0], []
        for head in range(8):
            part = slice(width * head, width * (head + 1))
            scores = [float(query[part] @ key[part]) / math.sqrt(width) for key in keys]
            weights = torch.tensor(scores).softmax(0)
            read.append(sum(w * value[part] for w, value in zip(weights, values, strict=True)))
        code = attention.out(torch.cat(read))  # type: ignore[arg-type]
        inputs = torch.cat([own[0], code])
        for layer in learner.decoder:
            inputs = layer.forward(inputs)
        rows.append(inputs)
    return torch.stack(rows)


def test_the_acnp_is_its_transcription_with_loops() -> None:
    spec = SPECS["reals"]
    learner, episodes = build(ACNP, spec), make_episodes(spec)
    ragged = torch.arange(episodes.support.mask.shape[1])[None] <= torch.arange(len(episodes.support.mask))[:, None]
    episodes = replace(episodes, support=replace(episodes.support, mask=episodes.support.mask & ragged))
    with torch.no_grad():
        got = outputs(learner, episodes)
        for t in range(len(got)):
            torch.testing.assert_close(got[t], plain_acnp(learner, episodes, t), rtol=1e-4, atol=1e-5)


def test_with_uniform_attention_every_query_reads_the_same_code() -> None:
    spec = SPECS["reals"]
    learner, episodes = build(partial(ACNP, attention="uniform"), spec), make_episodes(spec)
    phi = learner.adapt(episodes.support)
    h = learner.embed(episodes.query.x, phi)
    code = learner.attention(h, phi["keys"], phi["values"], phi["groups"])
    torch.testing.assert_close(code, code[:, :1].expand_as(code))
