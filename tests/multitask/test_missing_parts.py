"""Parts with few labels: their losses, however rows are cut into tasks, and what weightings make of none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from weighting_cases import linear

from metabox.episodes import Episodes, Examples
from metabox.learners import HardSharing
from metabox.multitask import GradNorm, Uncertainty
from metabox.multitask.surgery import Surgery
from metabox.objectives import QueryLoss
from metabox.targets import Parts, Reals, TaskSpec
from metabox.targets.parts import Part
from metabox.training.weighting import losses_by_task

SPEC = TaskSpec((2,), Parts([Part("common", Reals(1, noise=1.0)), Part("rare", Reals(1, noise=1.0), weight=2.0)]))
LABELLED = [0, 5, 6]  # rows with the rare part


class Given(QueryLoss):
    """Predicts 0 for every number, so that a loss is that of the label alone."""

    def predictions(self, episodes: Episodes) -> tuple[Tensor, Examples]:
        zero = 0.0 * next(self.learner.parameters()).sum()
        return zero + torch.zeros(*episodes.query.mask.shape, SPEC.target.n_params), episodes.query


def rows(tasks: int) -> Episodes:
    """16 rows as so many tasks; their labels are 0, 1, ..., 15 and ten times as much."""
    y = torch.arange(16.0)[:, None] * torch.tensor([1.0, 10.0])
    y[[i for i in range(16) if i not in LABELLED], 1] = math.nan
    query = Examples(
        x=torch.zeros(tasks, 16 // tasks, 2),
        y=y.view(tasks, -1, 2),
        mask=torch.ones(tasks, 16 // tasks, dtype=torch.bool),
    )
    support = Examples(
        x=torch.zeros(tasks, 0, 2), y=torch.zeros(tasks, 0, 2), mask=torch.zeros(tasks, 0, dtype=torch.bool)
    )
    return Episodes(support=support, query=query)


def half_square(values: list[float]) -> float:
    return sum(v * v / 2 for v in values) / len(values)


@pytest.mark.parametrize("tasks", [1, 4, 16])
def test_a_part_s_loss_in_training_does_not_depend_on_how_rows_are_cut_into_tasks(tasks: int) -> None:
    result = Given(HardSharing(SPEC)).train()(rows(tasks))
    losses, share = losses_by_task(SPEC, result, None)
    common, rare = half_square([float(i) for i in range(16)]), half_square([10.0 * i for i in LABELLED])
    assert losses.tolist() == pytest.approx([common, rare])
    assert share.tolist() == [1, 2]
    assert float(result["loss"].detach().mean()) == pytest.approx(common + 2 * rare)


def test_evaluation_keeps_the_loss_of_each_task() -> None:
    result = Given(HardSharing(SPEC)).eval()(rows(16))
    assert float(result["loss"][5].detach()) == pytest.approx(half_square([5.0]) + 2 * half_square([50.0]))
    assert float(result["loss"][1].detach()) == pytest.approx(half_square([1.0]))


def test_a_part_without_labels_has_no_share_and_a_penalty_is_no_part_s() -> None:
    episodes = rows(4)
    episodes.query.y[..., 1] = math.nan
    objective = Given(HardSharing(SPEC)).train()
    objective.learner.penalty = lambda: torch.tensor(7.0)  # type: ignore[method-assign]
    result = objective(episodes)
    losses, share = losses_by_task(SPEC, result, None)
    common = half_square([float(i) for i in range(16)])
    assert share.tolist() == [1, 0]
    assert float(losses[0].detach()) == pytest.approx(common), "without the penalty"
    assert result["penalty"].tolist() == [7.0] * 4
    assert float(result["loss"].detach().mean()) == pytest.approx(common + 7)


def test_surgery_leaves_the_gradient_of_the_parts_that_are_there() -> None:
    theta, losses = linear([[3.0, 4.0], [9.0, 9.0]])
    for method in ("mgda", "cagrad"):
        theta.grad = None
        Surgery(2, method).backward(
            losses, torch.tensor([1.0, 0.0]), [theta], lambda loss: loss.backward(retain_graph=True)
        )
        assert theta.grad.tolist() == [3.0, 4.0]


def test_gradnorm_rescales_the_weights_of_the_batch_only() -> None:
    weighting, norms = GradNorm(3, alpha=0.0, step=0.1), torch.tensor([1.0, 3.0, 0.0])
    present = torch.tensor([True, True, False])
    weighting.update(torch.tensor([1.0, 1.0, 0.0]), present, norms)
    # mean norm 2: steps of -(-1) * 1/2 and -(+1) * 3/2, times .1; scaled from 1.05 + .85 to a sum of 2
    assert weighting.w.tolist() == pytest.approx([2 * 1.05 / 1.9, 2 * 0.85 / 1.9, 1.0])
    assert weighting.first[2].isnan(), "an absent part has no first loss yet"


def test_uncertainty_learns_the_noise_of_a_rare_part_from_its_own_labels() -> None:
    """The minimum of exp(-v) L + v / 2 is at v = log(2 L)."""
    weighting = Uncertainty(2)
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.1)
    for tasks in 500 * [16]:
        result = {"loss": torch.zeros(tasks)}
        there = torch.arange(tasks) % 10 == 0
        for name, label in (("common", torch.ones(tasks)), ("rare", there.float())):
            result |= {f"loss_{name}": 0.72 * label, f"labels_{name}": label}
        losses, share = losses_by_task(SPEC, result, None)
        optimizer.zero_grad()
        weighting.total(losses, share).backward()
        optimizer.step()
    assert weighting.log_variance.tolist() == pytest.approx([math.log(1.44)] * 2, abs=1e-3)


def test_in_evaluation_a_part_without_a_label_has_no_loss_rather_than_one_of_zero() -> None:
    objective = Given(HardSharing(SPEC)).eval()
    result = objective(rows(4))  # the last two tasks, of rows 8 to 15, have no label of the rare part
    assert result["loss_rare"].isnan().tolist() == [False, False, True, True]
    assert result["loss_common"].isfinite().all()
    assert result["loss"].isfinite().all()
    losses, share = losses_by_task(SPEC, result, None)
    assert losses.tolist() == pytest.approx([half_square([float(i) for i in range(16)]), half_square([0, 50, 60])])
    assert share.tolist() == [1, 2]
