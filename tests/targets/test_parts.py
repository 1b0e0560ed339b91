"""Targets of named parts: their layout, what is missing, and the likelihood number by number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal
from torch.nn.functional import softplus
from toys import PARTS, made_parts

from metabox.episodes import Examples
from metabox.targets import Classes, Parts, Reals, TaskSpec
from metabox.targets.parts import Part, join_parts, split_parts

SPEC = TaskSpec((3,), Parts(PARTS))


def one_by_one(params: Tensor, y: Tensor) -> dict[str, float]:
    """Each part's mean log p of ONE example's labels that are there; params [P], y [K]."""
    found, p_at, y_at = {}, 0, 0
    for part in PARTS:
        places = math.prod(part.spatial)
        numbers = []
        if isinstance(part.target, Classes):
            logits = params[p_at : p_at + part.size * places].view(part.size, places)
            for i in range(places):
                if not y[y_at + i].isnan():
                    numbers.append(Categorical(logits=logits[:, i]).log_prob(y[y_at + i].long()))
            p_at, y_at = p_at + part.size * places, y_at + places
        else:
            n = part.size * places
            for i in range(n):
                if y[y_at + i].isnan():
                    continue
                if isinstance(part.target, Reals):
                    scale = 0.01 + softplus(params[p_at + n + i])
                    numbers.append(Normal(params[p_at + i], scale).log_prob(y[y_at + i]))
                else:
                    numbers.append(Bernoulli(logits=params[p_at + i]).log_prob(y[y_at + i]))
            p_at, y_at = p_at + n * (2 if isinstance(part.target, Reals) else 1), y_at + n
        found[part.name] = float(torch.stack(numbers).mean()) if numbers else math.nan
    assert (p_at, y_at) == (len(params), len(y))
    return found


def test_the_composite_is_the_weighted_sum_over_parts_of_means_over_labels_that_are_there() -> None:
    likelihood, y = SPEC.target, made_parts(2, 5)
    params = torch.randn(2, 5, likelihood.n_params)
    got = likelihood.log_probs(params, y)
    for t in range(2):
        for m in range(5):
            wanted = one_by_one(params[t, m], y[t, m])
            for name, value in wanted.items():
                assert float(got[name][t, m]) == pytest.approx(value, rel=1e-4, nan_ok=True)
            total = sum(part.weight * wanted[part.name] for part in PARTS if not math.isnan(wanted[part.name]))
            assert float(likelihood.log_prob(params, y)[t, m]) == pytest.approx(total, rel=1e-4)


def test_a_part_s_loss_is_the_mean_over_the_examples_that_have_it() -> None:
    likelihood, y = SPEC.target, made_parts(2, 5)
    y[1, :, 4:8] = math.nan  # the second task has no depth at all
    params, mask = torch.randn(2, 5, likelihood.n_params), torch.ones(2, 5, dtype=torch.bool)
    mask[0, 3:] = False
    total, losses = likelihood.losses(params, y, mask)
    assert torch.equal(total, likelihood.nll(params, y, mask))
    for t, valid in ((0, 3), (1, 5)):
        rows = [one_by_one(params[t, m], y[t, m]) for m in range(valid)]
        wanted = 0.0
        for part in PARTS:
            there = [row[part.name] for row in rows if not math.isnan(row[part.name])]
            mean = -sum(there) / len(there) if there else 0.0
            assert float(losses[part.name][t]) == pytest.approx(mean, rel=1e-4)
            wanted += part.weight * mean
        assert float(total[t]) == pytest.approx(wanted, rel=1e-4)
    assert float(losses["depth"][1]) == 0


def test_a_missing_label_has_no_gradient_and_no_score() -> None:
    likelihood, y = SPEC.target, made_parts(1, 4)
    y[:, 1] = math.nan
    params = torch.randn(1, 4, likelihood.n_params, requires_grad=True)
    likelihood.nll(params, y, torch.ones(1, 4, dtype=torch.bool)).sum().backward()
    assert params.grad is not None
    assert params.grad[0, 1].abs().max() == 0
    assert params.grad[0, 0].abs().max() > 0
    assert params.grad.isfinite().all()
    scores = likelihood.scores(params.detach(), y)
    assert scores.keys() == {f"accuracy_{n}" for n in ("walls", "tags", "kind")} | {
        f"squared_error_{n}" for n in ("depth", "speed")
    }
    assert all(bool(score[0, 1].isnan()) and bool(score[0, 0].isfinite()) for score in scores.values())


def test_several_equal_predictions_mix_to_one_of_them() -> None:
    likelihood = SPEC.target
    params = torch.randn(2, 1, 5, likelihood.n_params)
    y = made_parts(2, 5)
    mixed = likelihood.mixture(params.expand(-1, 3, -1, -1))
    torch.testing.assert_close(
        likelihood.log_prob(mixed, y), likelihood.log_prob(params[:, 0], y), rtol=1e-4, atol=1e-4
    )


def test_two_predictions_mix_to_the_mean_probability_of_a_class() -> None:
    likelihood = SPEC.target
    params = torch.randn(1, 2, 1, likelihood.n_params)
    kind = slice(-4, None)  # the last part, four classes
    wanted = params[0, :, 0, kind].softmax(-1).mean(0)
    torch.testing.assert_close(likelihood.mixture(params)[0, 0, kind].softmax(-1), wanted)


def test_splitting_undoes_joining_and_shapes_are_those_of_the_parts() -> None:
    y = made_parts(2, 5)
    pieces = split_parts(PARTS, y)
    shapes = {name: list(piece.shape) for name, piece in pieces.items()}
    assert shapes == {
        "walls": [2, 5, 2, 2], "depth": [2, 5, 1, 2, 2], "tags": [2, 5, 2], "speed": [2, 5, 2], "kind": [2, 5],
    }  # fmt: skip
    torch.testing.assert_close(join_parts(PARTS, pieces), y, equal_nan=True)
    del pieces["depth"]
    assert bool(join_parts(PARTS, pieces)[..., 4:8].isnan().all())


def test_labels_are_written_with_zeros_where_they_are_missing_and_what_is_there() -> None:
    spec = TaskSpec((1,), Parts((Part("kind", Classes(3)), Part("tall", Reals(2)))))
    y = torch.tensor([[[2.0, 0.5, math.nan], [math.nan, 1.0, 2.0], [1.0, 1.0, 1.0]]])
    examples = Examples(x=torch.zeros(1, 3, 1), y=y, mask=torch.tensor([[True, True, False]]))
    wanted = [[0, 0, 1, 1, 0.5, 0, 1, 0], [0, 0, 0, 0, 1, 2, 1, 1], [0] * 8]
    torch.testing.assert_close(
        spec.target.encode(examples.y, examples.mask)[0], torch.tensor(wanted, dtype=torch.float)
    )
    assert spec.target.label_size == 8


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Part("a", "words"), "target as a Target, got 'words'"),  # type: ignore[arg-type]
        (lambda: Part("", Reals(1)), "a name for a part"),
        (lambda: Part("a", Reals(1), (0, 2)), "spatial as a list of whole numbers of at least 1"),
        (lambda: TaskSpec((1,), Parts((Part("a", Reals(1)), Part("a", Reals(2))))), "different names"),
        (lambda: TaskSpec((1,), Parts(())), "one at least"),
        (lambda: split_parts(PARTS, torch.zeros(1, 1, 3)), r"expected y \[T, N, 13\]"),
        (lambda: join_parts(PARTS, {}), "got none"),
        (lambda: join_parts(PARTS, {"size": torch.zeros(1, 1)}), "'size'"),
        (
            lambda: join_parts(PARTS, {"kind": torch.zeros(1, 2), "tags": torch.zeros(1, 1, 2)}),
            r"shape \[1, 1\] for part 'kind', got \[1, 2\]",
        ),
        (lambda: PARTS[0].check(torch.tensor([3.0])), "class ids from 0 to 2 in part 'walls'"),
        (lambda: PARTS[0].check(torch.tensor([0.5])), "class ids from 0 to 2"),
        (lambda: PARTS[1].check(torch.tensor([math.inf])), "finite numbers"),
        (lambda: PARTS[2].check(torch.tensor([2.0])), "labels of 0 and 1"),
    ],
)
def test_parts_that_make_no_sense_are_refused(make: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()  # type: ignore[operator]
