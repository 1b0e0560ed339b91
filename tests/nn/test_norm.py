"""The kinds of normalisation: against loops over tasks, images and channels, and what each of them promises."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import get_args

import pytest
import torch
from torch import Tensor

from metabox.discover import subclasses
from metabox.episodes import Examples
from metabox.evaluation import normalisation
from metabox.learners.base import Learner
from metabox.learners.cnp import CNP
from metabox.learners.prototypical import ProtoNet
from metabox.nn.backbones import Conv4
from metabox.nn.embedding import Embedding
from metabox.nn.norm import NORMS, Context, Norm, NormKind
from metabox.targets import Classes, TaskSpec
from metabox.testing import CHECKS, build, make_episodes, outputs
from metabox.testing.checks import check_queries_do_not_see_each_other

KINDS: tuple[NormKind, ...] = get_args(NormKind)
BY_TASK: tuple[NormKind, ...] = ("support", "task", "transductive")
IMAGES = TaskSpec((1, 16, 16), Classes(3))
T, N, M, C = 3, 5, 4, 6


def made(kind: NormKind) -> Norm:
    """A layer whose parameters and running statistics are nothing special."""
    torch.manual_seed(0)
    norm = Norm(C, kind, "here").double().eval()
    for parameter in norm.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    for name, buffer in norm.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + (0.5 if "var" in name else 0))
    return norm


def images(n: int, seed: int = 1) -> Tensor:
    """Of T tasks that differ in mean and spread: `[T, n, C, 3, 2]`."""
    random = torch.Generator().manual_seed(seed)
    task = torch.randn(2, T, 1, C, 1, 1, generator=random, dtype=torch.float64)
    return torch.randn(T, n, C, 3, 2, generator=random, dtype=torch.float64) * task[0].exp() + 3 * task[1]


MASK = torch.tensor([[True] * 5, [True, False, True, False, True], [False] * 5])


def run(norm: Norm, support: Tensor, mask: Tensor, query: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Both parts normalised `[T, n, C, 3, 2]`, and what the support left behind."""
    first = Context(mask=mask, n_tasks=len(support))
    seen = norm(support.flatten(0, 1), first).view(support.shape)
    asked = norm(query.flatten(0, 1), Context(known=first.measured, n_tasks=len(query))).view(query.shape)
    return seen, asked, first.measured


def moments(values: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of all the numbers in some tensors."""
    numbers = torch.cat([value.flatten() for value in values])
    mean = sum(numbers) / len(numbers)
    return mean, sum((number - mean) ** 2 for number in numbers) / len(numbers)


def plain(norm: Norm, support: Tensor, mask: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """What `Norm`'s docstring says, for one task, image and channel at a time."""
    results = torch.empty_like(support), torch.empty_like(query)
    for t in range(len(support)):
        real = [image for image, m in zip(support[t], mask[t], strict=True) if m]
        for part, result in zip((support[t], query[t]), results, strict=True):
            for i, image in enumerate(part):
                for c in range(C):
                    mean, var = norm.norm.running_mean[c], norm.norm.running_var[c]
                    if norm.kind == "transductive" and part is not support[t] and result is results[1]:
                        mean, var = moments([one[c] for one in query[t]])
                    elif norm.kind != "batch" and real:
                        mean, var = moments([one[c] for one in real])
                    if norm.kind == "task":
                        a = 1 / (1 + torch.exp(-(norm.scale_offset[0] * len(real) + norm.scale_offset[1])))
                        own_mean, own_var = moments([image[c]])
                        m = a * mean + (1 - a) * own_mean
                        var = a * (var + (mean - m) ** 2) + (1 - a) * (own_var + (own_mean - m) ** 2)
                        mean = m
                    scaled = (image[c] - mean) / (var + 1e-5) ** 0.5
                    result[t, i, c] = scaled * norm.norm.weight[c] + norm.norm.bias[c]
    return results


@pytest.mark.parametrize("kind", ["batch", *BY_TASK])
def test_a_kind_is_its_equations_in_loops(kind: NormKind) -> None:
    norm, support, query = made(kind), images(N), images(M, seed=2)
    with torch.no_grad():
        seen, asked, _ = run(norm, support, MASK, query)
        wanted_seen, wanted_asked = plain(norm, support, MASK, query)
    torch.testing.assert_close(asked, wanted_asked)
    torch.testing.assert_close(seen[MASK], wanted_seen[MASK])


def test_tasknorm_starts_half_way_between_the_support_and_the_image() -> None:
    norm = Norm(C, "task", "here").eval()
    image, other = torch.randn(1, C, 4, 4), torch.randn(1, C, 4, 4)
    context = Context(mask=torch.ones(1, 1, dtype=torch.bool))
    norm(other, context)
    got = norm(image, Context(known=context.measured))
    # Pooled with equal weights, the moments of two images of one size are those of both together.
    both = torch.cat([image, other]).transpose(0, 1).flatten(1)
    wanted = (image - both.mean(1)[:, None, None]) / (both.var(1, correction=0)[:, None, None] + 1e-5).sqrt()
    torch.testing.assert_close(got, wanted)


def test_group_norm_has_as_many_groups_as_the_paper_where_these_have_two_channels_or_more() -> None:
    groups = {channels: Norm(channels, "group", "").norm.num_groups for channels in (64, 48, 160, 640, 4, 3, 1)}
    assert groups == {64: 32, 48: 8, 160: 16, 640: 32, 4: 2, 3: 1, 1: 1}


@pytest.mark.parametrize("kind", ["support", "task"])
@pytest.mark.parametrize("query_first", [False, True])
def test_an_empty_support_falls_back_to_the_running_statistics(kind: NormKind, query_first: bool) -> None:
    norm, query = made(kind), images(M)
    nothing = torch.zeros(T, N, dtype=torch.bool)
    with torch.no_grad():
        _, masked, _ = run(norm, images(N), nothing, query)
        none_at_all = norm(query.flatten(0, 1), Context(n_tasks=T)).view(query.shape)
        wanted = plain(norm, images(N), nothing, query)[1]
    torch.testing.assert_close(masked, wanted)
    torch.testing.assert_close(none_at_all, wanted)


@pytest.mark.parametrize("kind", BY_TASK)
def test_training_keeps_the_moments_of_all_real_images_for_empty_supports(kind: NormKind) -> None:
    norm, support = made(kind).train(), images(N)
    real = support[MASK]  # all tasks' together; the third task has none
    before = norm.norm.running_mean.clone(), norm.norm.running_var.clone()
    norm(support.flatten(0, 1), Context(mask=MASK, n_tasks=T))
    torch.testing.assert_close(norm.norm.running_mean, 0.9 * before[0] + 0.1 * real.mean((0, 2, 3)))
    torch.testing.assert_close(norm.norm.running_var, 0.9 * before[1] + 0.1 * real.var((0, 2, 3), correction=0))
    kept = norm.norm.running_mean.clone()
    norm(support.flatten(0, 1), Context(mask=torch.zeros_like(MASK), n_tasks=T))
    torch.testing.assert_close(norm.norm.running_mean, kept)


@pytest.mark.parametrize("kind", KINDS)
def test_film_is_modulation_after_normalising(kind: NormKind) -> None:
    norm, support, query = made(kind), images(N), images(M, seed=2)
    film = torch.randn(T, 2, C, dtype=torch.float64)
    first = Context(known={"film.here": film, "film.there": film + 1}, mask=MASK, n_tasks=T)
    second = Context(known=first.known | first.measured, n_tasks=T)
    with torch.no_grad():
        seen, asked, _ = run(norm, support, MASK, query)
        got = (
            norm(support.flatten(0, 1), first),
            norm(query.flatten(0, 1), Context(first.known | first.measured, n_tasks=T)),
        )
    assert second.known.keys() >= {"film.here"}
    for result, before in zip(got, (seen, asked), strict=True):
        scale, shift = (film[:, i, :, None, None].unsqueeze(1) for i in (0, 1))
        torch.testing.assert_close(result.view(before.shape), before * (1 + scale) + shift)


@pytest.mark.parametrize("kind", KINDS)
def test_no_task_influences_another_and_what_is_kept_can_be_sliced(kind: NormKind) -> None:
    norm, support, query = made(kind), images(N), images(M, seed=2)
    with torch.no_grad():
        seen, asked, kept = run(norm, support, MASK, query)
        for t in range(T):
            part = slice(t, t + 1)
            alone = run(norm, support[part], MASK[part], query[part])
            torch.testing.assert_close(alone[0], seen[part])
            torch.testing.assert_close(alone[1], asked[part])
            known = {name: value[part] for name, value in kept.items()}
            torch.testing.assert_close(norm(query[t], Context(known=known)), asked[t])


@pytest.mark.parametrize("kind", BY_TASK)
def test_gradients_flow_through_the_statistics_and_to_the_blend(kind: NormKind) -> None:
    norm, support, query = made(kind).train(), images(N).requires_grad_(), images(M, seed=2)
    _, asked, _ = run(norm, support, MASK, query)
    asked.square().sum().backward()
    if kind == "task":
        assert norm.scale_offset.grad.abs().min() > 1e-3
    grad = torch.zeros_like(support) if support.grad is None else support.grad
    assert (grad[MASK].abs().max() > 1e-6) == (kind != "transductive")
    assert not grad[~MASK].any()


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_images_are_normalised_in_float32(kind: NormKind) -> None:
    norm, support, query = made(kind).float(), images(N).float(), images(M, seed=2).float()
    with torch.no_grad():
        exact = run(norm, support, MASK, query)
        with torch.autocast("cpu", torch.bfloat16):
            rough = run(norm, support.bfloat16(), MASK, query.bfloat16())
    assert all(value.dtype == torch.float32 for value in rough[2].values())
    for a, b in zip(rough[:2], exact[:2], strict=True):
        assert a.dtype == torch.bfloat16
        # Each number is rounded to 8 bits before and after, and images far from 0 lose most: a few hundredths.
        assert (a.float() - b).abs().max() < 0.03 * (1 + b.abs().max())


@pytest.mark.parametrize("kind", BY_TASK)
def test_weights_of_batch_norm_fit_the_kinds_by_task(kind: NormKind) -> None:
    missing, unexpected = Norm(C, kind, "").load_state_dict(Norm(C, "batch", "").state_dict(), strict=False)
    assert missing == (["scale_offset"] if kind == "task" else [])
    assert not unexpected


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected kind as one of 'batch', .*, got 'layer'"):
        Norm(C, "layer", "")  # type: ignore[arg-type]
    assert set(NORMS) == {"none", *KINDS}


@pytest.mark.parametrize("kind", BY_TASK)
def test_a_learner_that_reads_a_sequence_refuses_statistics_of_the_whole_support(kind: NormKind) -> None:
    with pytest.raises(ValueError, match='expected norm "batch" or "group" for a learner that reads a sequence'):
        Embedding(IMAGES, partial(Conv4, norm=kind), causal=True)


# ------------------------------------------------------------------ whole learners


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "batch"])
@pytest.mark.parametrize("learner", [CNP, ProtoNet], ids=lambda learner: learner.__name__)
def test_a_set_learner_conforms_with_every_kind(learner: type[Learner], kind: NormKind, check: str) -> None:
    make = partial(learner, backbone=partial(Conv4, width=16, norm=kind))
    if kind == "transductive" and CHECKS[check] is check_queries_do_not_see_each_other:
        with pytest.raises(AssertionError):
            CHECKS[check](make, IMAGES)
    else:
        CHECKS[check](make, IMAGES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_counts_for_another_only_where_the_result_says_so(kind: NormKind) -> None:
    learner, episodes = build(partial(CNP, backbone=partial(Conv4, width=8, norm=kind)), IMAGES), make_episodes(IMAGES)
    other = episodes.query.x.clone()
    other[:, 1:] = make_episodes(IMAGES, seed=5).query.x[:, 1:]
    here, there = (
        outputs(learner, episodes),
        outputs(learner, replace(episodes, query=replace(episodes.query, x=other))),
    )
    says = normalisation(learner)
    assert says == {"pretrained": None, "batch_norm": NORMS[kind], "transductive": kind == "transductive"}
    assert torch.allclose(here[:, 0], there[:, 0], atol=1e-5) != says["transductive"]


def test_phi_of_a_learner_holds_the_supports_statistics() -> None:
    episodes = make_episodes(IMAGES)
    for kind in KINDS:
        learner = build(partial(CNP, backbone=partial(Conv4, width=8, norm=kind)), IMAGES)
        names = {name for name in learner.adapt(episodes.support) if name.startswith("backbone.")}
        wanted = {f"backbone.norm.{i}" for i in range(4)} if kind in ("support", "task") else set()
        wanted |= {f"backbone.count.{i}" for i in range(4)} if kind == "task" else set()
        assert names == wanted


def test_padding_in_the_support_changes_no_statistic() -> None:
    episodes = make_episodes(IMAGES)
    s, junk = episodes.support, make_episodes(IMAGES, seed=3).support
    padded = Examples(
        x=torch.cat([junk.x[:, :3], s.x], 1),
        y=torch.cat([junk.y[:, :3], s.y], 1),
        mask=torch.cat([~junk.mask[:, :3], s.mask], 1),
    )
    for kind in KINDS:
        learner = build(partial(CNP, backbone=partial(Conv4, width=8, norm=kind)), IMAGES)
        phi, same = learner.adapt(s), learner.adapt(padded)
        for name in phi:
            torch.testing.assert_close(same[name], phi[name], rtol=1e-4, atol=1e-5)


def test_every_backbone_of_images_takes_every_kind() -> None:
    x = torch.rand(2, 3, 1, 32, 32)
    for found in subclasses("Backbone"):
        make = found.load()
        if "norm" not in make.__init__.__annotations__ or found.module.endswith("_1d"):
            continue
        for kind in KINDS:
            backbone = make((1, 32, 32), norm=kind).eval()
            film = {f"film.{name}": torch.randn(2, 2, size) for name, size in backbone.film_sizes().items()}
            assert len(film) == sum(isinstance(module, Norm) for module in backbone.modules()) > 0
            plain, _ = backbone.adapt(x, torch.ones(2, 3, dtype=torch.bool))
            h, known = backbone.adapt(x, torch.ones(2, 3, dtype=torch.bool), film)
            assert h.shape == (2, 3, backbone.out_features)
            assert known.keys() >= film.keys()
            assert not torch.allclose(h, plain)
            assert backbone.norm == kind
