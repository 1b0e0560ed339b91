"""Likelihoods against torch.distributions, and objectives against means worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal

from metabox.episodes import Episodes, Examples
from metabox.learners.base import within
from metabox.learners.cnp import CNP
from metabox.learners.lstm import LSTM
from metabox.objectives import QueryLoss, StreamLoss
from metabox.targets import Binary, Classes, Reals, TaskSpec
from metabox.targets.base import task_mean
from metabox.testing import build, make_episodes

CLASSES, REALS, BINARY = (TaskSpec((3,), kind(4)) for kind in (Classes, Reals, Binary))
T, M = 3, 5


def params(p: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(T, M, p, generator=torch.Generator().manual_seed(seed))


def test_categorical_is_that_of_torch() -> None:
    y = torch.randint(4, (T, M))
    logits = params(4)
    torch.testing.assert_close(CLASSES.target.log_prob(logits, y), TorchCategorical(logits=logits).log_prob(y))
    assert CLASSES.target.n_params == 4


def test_a_label_set_leaves_the_distribution_over_its_classes() -> None:
    mask = torch.tensor([[True, False, True, False], [True, True, True, False], [False, True, False, False]])
    logits, likelihood = params(4), CLASSES.target
    log_probs = likelihood.log_probs(within(logits, mask))
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(T, M))
    for t in range(T):
        have = mask[t].nonzero().squeeze(1)
        wanted = TorchCategorical(logits=logits[t][:, have])
        for position, c in enumerate(have.tolist()):
            y = torch.full((T, M), c)
            got = likelihood.log_prob(within(logits, mask), y)[t]
            torch.testing.assert_close(got, wanted.log_prob(torch.tensor(position)))
        assert (log_probs[t][:, ~mask[t]].exp() == 0).all()


def test_a_class_outside_of_the_label_set_is_never_the_predicted_one() -> None:
    mask = torch.tensor([[True, True, False, False]]).expand(T, -1)
    logits = params(4) + torch.tensor([0.0, 0.0, 50.0, 50.0])
    best_of_two = logits[..., :2].argmax(-1)
    scores = CLASSES.target.scores
    assert (scores(within(logits, mask), best_of_two)["accuracy"] == 1).all()
    assert (scores(within(logits, mask), 1 - best_of_two)["accuracy"] == 0).all()


def test_no_gradient_reaches_logits_outside_of_the_label_set_and_none_is_nan() -> None:
    logits = params(4).requires_grad_()
    mask = torch.tensor([[True, True, False, False]]).expand(T, -1)
    CLASSES.target.log_prob(within(logits, mask), torch.zeros(T, M, dtype=torch.int64)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[..., 2:] == 0).all()
    assert (logits.grad[..., :2] != 0).all()


def test_gaussian_is_that_of_torch_summed_over_the_targets() -> None:
    raw, y = params(8), torch.randn(T, M, 4)
    scale = 0.05 + torch.log1p(raw[..., 4:].exp())
    likelihood = Reals(REALS.target.size, min_scale=0.05)
    torch.testing.assert_close(likelihood.log_prob(raw, y), Normal(raw[..., :4], scale).log_prob(y).sum(-1))
    torch.testing.assert_close(likelihood.scores(raw, y)["squared_error"], ((raw[..., :4] - y) ** 2).mean(-1))
    assert likelihood.n_params == 8


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({"min_scale": 0.1, "factor": 0.9}, lambda raw: 0.1 + 0.9 * torch.log1p(raw.exp())),  # neural processes
        ({"min_scale": 0.05, "factor": 0.95}, lambda raw: 0.05 + 0.95 * torch.log1p(raw.exp())),  # TNP on images
        ({"min_scale": 0.0, "link": "exp"}, torch.exp),  # TNP on functions
        ({"min_scale": 0.0}, lambda raw: torch.log1p(raw.exp())),  # ConvCNP
    ],
)
def test_the_standard_deviation_has_the_form_of_each_papers_code(options: Any, published: Any) -> None:
    raw, y = params(8), torch.randn(T, M, 4)
    likelihood = Reals(4, **options)
    wanted = Normal(raw[..., :4], published(raw[..., 4:])).log_prob(y).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(raw, y), wanted)
    assert likelihood.single == Reals(1, **options)


def test_a_fixed_noise_is_the_standard_deviation() -> None:
    mean, y = params(4), torch.randn(T, M, 4)
    likelihood = Reals(REALS.target.size, noise=0.3)
    torch.testing.assert_close(likelihood.log_prob(mean, y), Normal(mean, 0.3).log_prob(y).sum(-1))
    assert likelihood.n_params == 4


def test_bernoulli_is_that_of_torch_summed_over_the_labels() -> None:
    logits, y = params(4), torch.randint(2, (T, M, 4)).float()
    likelihood = BINARY.target
    torch.testing.assert_close(likelihood.log_prob(logits, y), TorchBernoulli(logits=logits).log_prob(y).sum(-1))
    right = ((logits.sigmoid() > 0.5) == (y == 1)).float().mean(-1)
    torch.testing.assert_close(likelihood.scores(logits, y)["accuracy"], right)


@pytest.mark.parametrize("spec", [CLASSES, REALS, BINARY])
def test_a_likelihood_is_computed_in_float32_whatever_comes_in(spec: TaskSpec) -> None:
    likelihood = spec.target
    rough = params(likelihood.n_params).bfloat16()
    y = torch.randint(4, (T, M)) if spec.target.n_classes is not None else torch.ones(T, M, 4)
    got = likelihood.log_prob(rough, y)
    assert got.dtype == torch.float32
    assert torch.equal(got, likelihood.log_prob(rough.float(), y))


@pytest.mark.parametrize("junk", [math.inf, -math.inf, math.nan])
def test_the_mean_over_a_task_ignores_whatever_stands_in_the_padding(junk: float) -> None:
    values = torch.tensor([[1.0, junk, 3.0], [junk, junk, junk], [1.0, 2.0, 6.0]], requires_grad=True)
    mask = torch.tensor([[True, False, True], [False] * 3, [True] * 3])
    mean = task_mean(values, mask)
    assert mean.tolist() == [2.0, 0.0, 3.0]
    mean.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.5, 0, 0.5], [0, 0, 0], [pytest.approx(1 / 3)] * 3]


def gradients(module: nn.Module, loss: Tensor) -> list[Tensor]:
    module.zero_grad()
    loss.sum().backward()
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def padded_with(queries: Examples, x: float, y: float) -> Examples:
    """Two more queries than there are, which are padding."""
    more_x, more_y = torch.full_like(queries.x[:, :2], x), torch.full_like(queries.y[:, :2], y)
    return Examples(
        x=torch.cat([more_x[:, :1], queries.x, more_x[:, 1:]], 1),
        y=torch.cat([more_y[:, :1], queries.y, more_y[:, 1:]], 1),
        mask=torch.cat([~queries.mask[:, :1], queries.mask, ~queries.mask[:, :1]], 1),
    )


@pytest.mark.parametrize("spec", [CLASSES, REALS, BINARY])
def test_padded_queries_change_neither_loss_nor_gradient(spec: TaskSpec) -> None:
    episodes, objective = make_episodes(spec), QueryLoss(build(CNP, spec))
    padded = replace(episodes, query=padded_with(episodes.query, x=100.0, y=1))
    whole, ragged = objective(episodes), objective(padded)
    assert set(ragged) == {"loss", "squared_error" if isinstance(spec.target, Reals) else "accuracy"}
    for name in whole:
        torch.testing.assert_close(ragged[name], whole[name])
    torch.testing.assert_close(gradients(objective, ragged["loss"]), gradients(objective, whole["loss"]))


def test_the_support_counts_among_the_targets_in_training_if_told_and_never_in_an_evaluation() -> None:
    episodes, learner = make_episodes(REALS), build(CNP, REALS)
    both = QueryLoss(learner, predict_support=True)
    whole = [torch.cat([getattr(part, name) for part in (episodes.support, episodes.query)], 1) for name in "xy"]
    for training in (True, False):
        learner.train(training)
        params = learner.predict(learner.adapt(episodes.support), whole[0])
        each = -REALS.target.log_prob(params, whole[1])
        wanted = each.mean(1) if training else each[:, episodes.support.y.shape[1] :].mean(1)
        torch.testing.assert_close(both(episodes)["loss"], wanted)


@pytest.mark.parametrize(
    ("spec", "y"),
    [
        (CLASSES, -1),
        (REALS, math.inf),
    ],
)
def test_padded_queries_may_hold_anything_that_the_check_lets_through(spec: TaskSpec, y: float) -> None:
    episodes, objective = make_episodes(spec), QueryLoss(build(CNP, spec))
    padded = replace(episodes, query=padded_with(episodes.query, x=0.0, y=y))
    spec.check_episodes(padded)
    wanted = gradients(objective, objective(episodes)["loss"])
    torch.testing.assert_close(gradients(objective, objective(padded)["loss"]), wanted)


def test_query_loss_is_the_mean_over_a_tasks_queries() -> None:
    episodes = make_episodes(CLASSES)
    query = replace(episodes.query, mask=torch.tensor([[True] * 4, [True, False, True, False], [False] * 4]))
    learner = build(CNP, CLASSES)
    got = QueryLoss(learner)(replace(episodes, query=query))["loss"]
    logits = learner(episodes)
    for t in range(3):
        losses = [-logits[t, m].log_softmax(0)[query.y[t, m]] for m in range(4) if query.mask[t, m]]
        wanted = torch.stack(losses).mean() if losses else torch.tensor(0.0)
        torch.testing.assert_close(got[t], wanted)


@pytest.mark.parametrize("make", [CNP, LSTM])
def test_stream_loss_is_the_mean_over_a_sequence_of_one_step_losses(make: type[CNP] | type[LSTM]) -> None:
    episodes = make_episodes(CLASSES, n_support=3, n_query=2)
    mask = torch.tensor([[True] * 3, [False, True, True], [True, False, False]])
    episodes = replace(episodes, support=replace(episodes.support, mask=mask))
    learner = build(make, CLASSES)
    got = StreamLoss(learner)(episodes)
    for t in range(3):
        s, q = episodes[t : t + 1].support, episodes[t : t + 1].query
        steps = [(s.x[0, i], s.y[0, i]) for i in range(3) if mask[t, i]] + list(zip(q.x[0], q.y[0], strict=True))
        losses, right = [], []
        for i, (x, y) in enumerate(steps):
            seen_x = torch.stack([x for x, _ in steps])[None, :i]
            seen_y = torch.stack([y for _, y in steps])[None, :i]
            phi = learner.adapt(Examples(x=seen_x, y=seen_y), classes=torch.ones(1, 4, dtype=torch.bool))
            logits = learner.predict(phi, x[None, None])[0, 0]
            losses.append(-logits.log_softmax(0)[y])
            right.append((logits.argmax() == y).float())
        torch.testing.assert_close(got["loss"][t], torch.stack(losses).mean())
        torch.testing.assert_close(got["accuracy"][t], torch.stack(right).mean())


def test_the_likelihood_is_computed_outside_autocast() -> None:
    autocast = []

    class Watched(Classes):
        def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
            autocast.append(torch.is_autocast_enabled("cpu"))
            return super().log_prob(params, y)

    learner = build(CNP, replace(CLASSES, target=Watched(4)))
    with torch.autocast("cpu", torch.bfloat16):
        loss = QueryLoss(learner)(make_episodes(CLASSES))["loss"]
    assert autocast == [False]
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("spec", [CLASSES, REALS, BINARY])
def test_the_loss_carries_a_gradient_and_the_scores_do_not(spec: TaskSpec) -> None:
    result = QueryLoss(build(CNP, spec))(make_episodes(spec))
    assert [name for name, value in result.items() if value.requires_grad] == ["loss"]


def test_episodes_without_queries_cost_nothing() -> None:
    episodes = make_episodes(CLASSES)
    empty = Episodes(support=episodes.support, query=episodes.query[:, :0])
    assert QueryLoss(build(CNP, CLASSES))(empty)["loss"].tolist() == [0.0, 0.0, 0.0]
