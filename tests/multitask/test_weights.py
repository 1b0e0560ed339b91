"""Weights of losses against hand-computed values, the papers' equations and torchjd itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from metabox.multitask import DWA, Fixed, GradNorm, Random, Uncertainty, WorstCase
from metabox.multitask.weights import FLOOR

pytest.importorskip("torchjd")
from torchjd import scalarization
from weighting_cases import Net, even, gradients, linear


def test_the_plain_sum_is_the_mean_loss_of_the_batch() -> None:
    net, share = Net(), torch.tensor([0.5, 0.25, 0.25])
    everything = list(net.parameters())
    got = gradients(Fixed(3), net.losses(), share, net.shared, everything)
    wanted = torch.autograd.grad((share * net.losses()).sum(), everything)
    torch.testing.assert_close(got, torch.cat([g.flatten() for g in wanted]))


def test_fixed_weights_multiply_the_losses() -> None:
    theta, losses = linear([[1.0, 0.0], [0.0, 1.0]])
    assert gradients(Fixed(2, [3, 0.5]), losses, even(2), [theta]).tolist() == [1.5, 0.25]


def test_uncertainty_weights_are_those_of_the_paper_by_hand() -> None:
    theta, losses = linear([[2.0, 0.0], [0.0, 8.0]])  # at theta = 1 the losses are 2 and 8
    weighting = Uncertainty(2)
    with torch.no_grad():
        weighting.log_variance.copy_(torch.tensor([math.log(2.0), math.log(4.0)]))
    got = gradients(weighting, losses, torch.ones(2), [theta])
    assert got.tolist() == pytest.approx([2 / 2, 8 / 4])
    # d/dv (exp(-v) L + v / 2)
    assert weighting.log_variance.grad is not None
    assert weighting.log_variance.grad.tolist() == pytest.approx([-2 / 2 + 0.5, -8 / 4 + 0.5])


def test_uncertainty_total_is_that_of_torchjd_where_a_loss_is_half_a_square() -> None:
    theirs, ours = scalarization.UW(3), Uncertainty(3)
    v, squares = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([4.0, 0.5, 9.0])
    with torch.no_grad():
        theirs.log_var.copy_(v), ours.log_variance.copy_(v)
    torch.testing.assert_close(ours.total(squares / 2, torch.ones(3)), theirs(squares))


def test_learned_uncertainty_finds_the_noise_and_is_bounded_where_a_loss_is_negative() -> None:
    weighting, squares = Uncertainty(2), torch.tensor([4.0, -1.0])
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        weighting.total(squares / 2, torch.ones(2)).backward()
        optimizer.step()
    assert float(weighting.log_variance[0].detach().exp()) == pytest.approx(4.0, rel=1e-3)  # sigma^2 = |y - f|^2
    assert float(weighting.weights(squares, torch.ones(2)).detach()[1]) == pytest.approx(math.exp(Uncertainty.LIMIT))


def gradnorm_by_hand(w: list[float], rows: list[list[float]], losses: list, first: list, alpha: float, step: float):
    """Algorithm 1 of Chen et al. 2018 with plain loops; equation (2) divided by the mean norm."""
    n = [math.sqrt(sum(v * v for v in row)) for row in rows]
    norm = [w[k] * n[k] for k in range(len(w))]
    mean = sum(norm) / len(norm)
    ratio = [losses[k] / first[k] for k in range(len(w))]
    r = [value / (sum(ratio) / len(ratio)) for value in ratio]
    new = [w[k] - step * math.copysign(1, norm[k] - mean * r[k] ** alpha) * n[k] / mean for k in range(len(w))]
    return [value * len(w) / sum(new) for value in new]


def test_gradnorm_takes_the_steps_of_algorithm_1() -> None:
    rows = [[3.0, 4.0], [0.0, 1.0], [2.0, 0.0]]
    weighting, w, first = GradNorm(3, alpha=0.7, step=0.1, layer="all"), [1.0, 1.0, 1.0], None
    for start in ([1.0, 1.0], [0.5, 0.9], [0.4, 0.1]):
        theta = nn.Parameter(torch.tensor(start))
        losses = torch.tensor(rows) @ theta
        got = gradients(weighting, losses, even(3), [theta])
        wanted = np.array(w) / 3 @ np.array(rows)  # the step is with w(t), not w(t + 1)
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5)
        first = first or losses.tolist()
        w = gradnorm_by_hand(w, rows, losses.tolist(), first, 0.7, 0.1)
        np.testing.assert_allclose(weighting.w.numpy(), w, rtol=1e-5)


def test_gradnorm_brings_unequal_gradients_to_one_norm() -> None:
    theta = nn.Parameter(torch.ones(2, 1))
    weighting = GradNorm(2, alpha=0.0)
    for _ in range(300):
        gradients(weighting, torch.stack([10 * theta[0, 0], theta[1, 0]]), even(2), [theta])
    ratio = float(weighting.w[1] / weighting.w[0])
    assert ratio == pytest.approx(10, rel=0.5)  # within the last step's length
    assert float(weighting.w.sum()) == pytest.approx(2)


def test_gradnorm_reads_the_last_shared_layer_or_all() -> None:
    early, late = nn.Parameter(torch.tensor([[5.0]])), nn.Parameter(torch.tensor([[1.0]]))
    bias = nn.Parameter(torch.zeros(1))
    for layer, towards in (("last", 1), ("all", 0)):
        losses = torch.stack([early.sum() + 2 * late.sum() + bias.sum(), 3 * early.sum() + late.sum() + bias.sum()])
        weighting = GradNorm(2, alpha=0.0, layer=layer)
        gradients(weighting, losses, even(2), [early, late, bias])
        assert int(weighting.w.argmax()) == towards


def test_dwa_weights_are_those_of_torchjd() -> None:
    ours, theirs = DWA(3, temperature=1.5, period=4), scalarization.DWA(temperature=1.5)
    generator = torch.Generator().manual_seed(0)
    for step in range(20):
        losses = torch.rand(3, generator=generator) + 0.1
        torch.testing.assert_close(ours.total(losses, torch.ones(3)), theirs(losses))
        if step % 4 == 3:
            theirs.step()


def test_dwa_by_hand() -> None:
    weighting, share = DWA(2, temperature=2.0, period=2), even(2)
    for losses in ([4.0, 1.0], [4.0, 3.0], [2.0, 2.0], [4.0, 2.0]):  # means 4 and 2, then 3 and 2
        assert weighting.weights(torch.tensor(losses), share).tolist() == [1, 1]
    a, b = math.exp(3 / 4 / 2), math.exp(2 / 2 / 2)
    got = weighting.weights(torch.tensor([1.0, 1.0]), share).tolist()
    assert got == pytest.approx([2 * a / (a + b), 2 * b / (a + b)])


def test_dwa_averages_over_the_batches_that_a_task_is_in() -> None:
    weighting = DWA(2, period=2)
    weighting.weights(torch.tensor([4.0, 7.0]), torch.tensor([1.0, 0.0]))
    weighting.weights(torch.tensor([2.0, 6.0]), torch.tensor([0.5, 0.5]))
    assert weighting.means[0].tolist() == [3, 6]


def test_random_weights_depend_on_the_seed_alone_and_add_up_to_the_number_of_tasks() -> None:
    weighting = Random(4)
    torch.manual_seed(3)
    drawn = torch.randn(4)
    torch.manual_seed(3)
    got = weighting.weights(torch.ones(4), even(4))
    torch.testing.assert_close(got, 4 * drawn.exp() / drawn.exp().sum())
    assert float(got.sum()) == pytest.approx(4)
    assert not torch.equal(got, weighting.weights(torch.rand(4), even(4)))


def test_worst_case_takes_the_steps_of_group_dro() -> None:
    weighting, q = WorstCase(3, step=0.5), np.full(3, 1 / 3)
    for losses in ([1.0, 2.0, 0.5], [0.2, 3.0, -1.0]):
        theta, values = linear([[loss] for loss in losses])
        got = gradients(weighting, values, torch.tensor([0.2, 0.7, 0.1]), [theta])
        q = q * np.exp(0.5 * np.array(losses))
        q = q / q.sum()
        assert float(got) == pytest.approx(float(q @ losses), rel=1e-5)


def test_worst_case_with_an_infinite_step_is_the_gradient_of_the_largest_loss() -> None:
    theta, losses = linear([[1.0, 0.0], [0.0, 3.0], [5.0, 5.0]])
    share = torch.tensor([0.5, 0.5, 0.0])  # the largest of all is not in the batch
    assert gradients(WorstCase(3, step=math.inf), losses, share, [theta]).tolist() == [0, 3]
    theta, losses = linear([[-1.0, 0.0], [0.0, -3.0], [5.0, 5.0]])
    assert gradients(WorstCase(3, step=math.inf), losses, share, [theta]).tolist() == [-1, 0]


def test_worst_case_reaches_the_minimax_point() -> None:
    x, weighting = nn.Parameter(torch.zeros(1)), WorstCase(2, step=0.1)
    for _ in range(600):
        x.grad = None
        losses = torch.cat([x.square(), 4 * (x - 3).square()])
        weighting.backward(losses, even(2), [x], torch.Tensor.backward)
        x.data -= 0.02 * x.grad
    assert x.item() == pytest.approx(2, abs=0.02)  # x^2 = 4 (x - 3)^2; the plain sum ends at 2.4


def test_gradnorm_weights_stay_positive() -> None:
    weighting = GradNorm(2, alpha=0.0, step=50.0)
    weighting.update(torch.ones(2), torch.tensor([True, True]), torch.tensor([5.0, 0.1]))
    assert float(weighting.w.min()) >= FLOOR / 100
