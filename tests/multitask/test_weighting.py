"""Weightings against hand-computed values, plain transcriptions of the papers' equations, and torchjd itself."""

from __future__ import annotations

import copy
import math
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metabox.multitask import DWA, Fixed, GradNorm, Random, Surgery, Uncertainty, WorstCase
from metabox.multitask.surgery import METHODS
from metabox.multitask.weights import FLOOR
from metabox.training.weighting import Weighting

pytest.importorskip("torchjd")
from torchjd import aggregation, scalarization

EVERY: dict[str, Callable[[int], Weighting]] = {
    "fixed": Fixed,
    "uncertainty": Uncertainty,
    "gradnorm": GradNorm,
    "dwa": lambda k: DWA(k, period=2),
    "random": Random,
    "worst": WorstCase,
    **{method: lambda k, method=method: Surgery(k, method) for method in METHODS},
}


class Net(nn.Module):
    """A trunk and a head for each of K regressions."""

    def __init__(self, k: int = 3) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
        self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(k))
        self.shared = list(self.trunk.parameters())

    def losses(self, step: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, 4, generator=generator), torch.randn(8, len(self.heads), generator=generator)
        outputs = torch.cat([head(self.trunk(x)) for head in self.heads], 1)
        return (outputs - y * torch.tensor([1.0, 3.0, 0.2])[: len(self.heads)]).square().mean(0)


def even(k: int) -> Tensor:
    return torch.full([k], 1 / k)


def gradients(
    weighting: Weighting, losses: Tensor, share: Tensor, shared: list, of: list | None = None, engine=None
) -> Tensor:
    """What `backward` leaves in `.grad`, flat."""
    of = shared if of is None else of
    for parameter in of:
        parameter.grad = None
    weighting.backward(losses, share, shared, engine or checked)
    return torch.cat([parameter.grad.flatten() for parameter in of])


def checked(loss: Tensor) -> None:
    assert not loss.isnan(), "a loss that the batch does not have was read"
    loss.backward()


def linear(rows: list[list[float]]) -> tuple[nn.Parameter, Tensor]:
    """Losses whose gradients are the given rows."""
    theta = nn.Parameter(torch.ones(len(rows[0])))
    return theta, torch.tensor(rows) @ theta


# The weights


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


# Surgery


def test_pcgrad_of_two_tasks_by_hand() -> None:
    theta, losses = linear([[1.0, 0.0], [-1.0, 1.0]])
    # g1 - (g1.g2 / |g2|^2) g2 = (0.5, 0.5); g2 - (g1.g2 / |g1|^2) g1 = (0, 1); their mean
    assert gradients(Surgery(2, "pcgrad"), losses, even(2), [theta]).tolist() == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize(
    ("rows", "shortest"),
    [
        ([[2.0, 0.0], [0.0, 1.0]], [0.4, 0.8]),  # x = g2.(g2 - g1) / |g1 - g2|^2 = 1/5 of g1
        ([[1.0, 0.0], [3.0, 1.0]], [1.0, 0.0]),  # g1.g2 > |g1|^2: g1 alone
        ([[-1.0, 0.0], [2.0, 0.0]], [0.0, 0.0]),  # Pareto stationary
    ],
)
def test_mgda_of_two_tasks_in_closed_form(rows: list[list[float]], shortest: list[float]) -> None:
    theta, losses = linear(rows)
    got = gradients(Surgery(2, "mgda"), losses, even(2), [theta])
    assert got.tolist() == pytest.approx(shortest, abs=1e-3)


def direct(method: str, jacobian: Tensor) -> Tensor:
    """torchjd's own aggregation of a Jacobian."""
    k = len(jacobian)
    if method == "nash":
        with pytest.warns(UserWarning, match="DPP"):
            return aggregation.NashMTL(k)(jacobian)
    makers = {"mgda": aggregation.MGDA, "imtl": aggregation.IMTLG, "upgrad": aggregation.UPGrad}
    if method == "cagrad":
        return aggregation.CAGrad(c=0.5)(jacobian)
    return aggregation.PCGrad()(jacobian) / k if method == "pcgrad" else makers[method]()(jacobian)


@pytest.mark.parametrize("method", METHODS)
def test_surgery_on_a_network_is_that_of_torchjd_and_the_heads_get_the_plain_gradient(method: str) -> None:
    net, share = Net(), torch.tensor([0.5, 0.3, 0.2])
    heads = list(net.heads.parameters())
    rows = [torch.autograd.grad(loss, net.shared, retain_graph=True) for loss in 3 * share * net.losses()]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    torch.manual_seed(1)
    wanted = direct(method, jacobian)
    torch.manual_seed(1)
    got = gradients(Surgery(3, method), net.losses(), share, net.shared, net.shared + heads)
    torch.testing.assert_close(got[: len(wanted)], wanted, rtol=1e-4, atol=1e-5)
    plain = torch.autograd.grad((share * net.losses()).sum(), heads)
    torch.testing.assert_close(got[len(wanted) :], torch.cat([g.flatten() for g in plain]))


@pytest.mark.parametrize("method", METHODS)
def test_tasks_that_agree_get_the_step_of_the_plain_sum(method: str) -> None:
    theta, losses = linear([[3.0, 4.0]] * 3)
    scale = {"cagrad": 1.5, "nash": 1 / 5}.get(method, 1.0)  # 1 + c; a step of length 1
    got = gradients(Surgery(3, method), losses, even(3), [theta])
    assert got.tolist() == pytest.approx([3 * scale, 4 * scale], rel=1e-3)


def test_surgery_adds_to_the_gradients_that_are_there() -> None:
    net = Net()
    everything = list(net.parameters())
    once = gradients(Surgery(3, "mgda"), net.losses(), even(3), net.shared, everything)
    Surgery(3, "mgda").backward(net.losses(), even(3), net.shared, torch.Tensor.backward)
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in everything]), 2 * once)


def test_weights_of_the_rows_last_for_several_batches() -> None:
    weighting, net = Surgery(3, "imtl", every=2), Net()
    gradients(weighting, net.losses(0), even(3), net.shared)
    weights = weighting.relative / 3
    got = gradients(weighting, net.losses(1), even(3), net.shared)
    wanted = torch.autograd.grad(weights @ net.losses(1), net.shared)
    torch.testing.assert_close(got, torch.cat([g.flatten() for g in wanted]))
    gradients(weighting, net.losses(2), even(3), net.shared)
    assert not torch.allclose(weights, weighting.relative / 3)


class Gated(nn.Module):
    """A representation z that each task gates for itself before a second shared layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 1, bias=False)
        self.gates = nn.Parameter(torch.randn(3, 5))
        self.shared = [*self.first.parameters(), *self.second.parameters()]

    def forward(self) -> tuple[Tensor, Tensor]:
        x, y = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([1.0, -2.0, 0.5])
        z = self.first(x).tanh()
        return z, (self.second(z[:, None] * self.gates)[..., 0] - y).square().mean(0)


@pytest.mark.parametrize("method", METHODS)
def test_surgery_on_the_representation_passes_on_what_torchjd_makes_of_its_gradients(method: str) -> None:
    net, share = Gated(), torch.tensor([0.5, 0.3, 0.2])
    z, losses = net()
    rows = [torch.autograd.grad(loss, [z, net.second.weight], retain_graph=True) for loss in 3 * share * losses]
    torch.manual_seed(1)
    wanted = direct(method, torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]))
    at_z, second = wanted[: z.numel()].view_as(z), wanted[z.numel() :]
    first = torch.autograd.grad(z, list(net.first.parameters()), at_z, retain_graph=True)
    (gates,) = torch.autograd.grad((share * losses).sum(), net.gates)
    torch.manual_seed(1)
    weighting = Surgery(3, method, level="representation")
    got = gradients(weighting, net()[1], share, net.shared, [*net.shared, net.gates])
    wanted = torch.cat([*(g.flatten() for g in first), second, gates.flatten()])
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


def test_surgery_on_the_representation_wants_tasks_that_share_inputs_and_have_parts_of_their_own() -> None:
    weighting = Surgery(3, level="representation")
    net = Net()  # computes its trunk anew for each head, as if each task had rows of its own
    with pytest.raises(ValueError, match=r"expected tasks with the same inputs.*orthogonal"):
        weighting.backward(net.losses(), even(3), net.shared, checked)
    with pytest.raises(ValueError, match="parameters of each task's own"):
        weighting.backward(net.losses(), even(3), list(net.parameters()), checked)


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_that_is_not_finite_shows_in_the_gradient_and_not_in_the_state(method: str) -> None:
    weighting = Surgery(2, method)
    theta, losses = linear([[1.0, 2.0], [3.0, -1.0]])
    before = copy.deepcopy(weighting.state_dict())
    got = gradients(weighting, losses * torch.tensor([1.0, math.inf]), even(2), [theta], engine=torch.Tensor.backward)
    assert not got.isfinite().all()
    assert torch.equal(weighting.relative, before["relative"])
    assert torch.equal(weighting.alpha, before["alpha"])


# All of them


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_without_some_task_trains_the_others_and_its_missing_loss_is_never_read(name: str) -> None:
    net, share = Net(), torch.tensor([0.6, 0.0, 0.4])
    absent = torch.tensor([False, True, False])
    found = []
    for junk in (math.nan, 100.0):
        weighting = EVERY[name](3)
        for step in range(3):
            torch.manual_seed(step)
            losses = torch.where(absent, torch.tensor(junk), net.losses(step))
            found.append(gradients(weighting, losses, share, net.shared))
        assert net.heads[0].weight.grad is not None
        assert net.heads[1].weight.grad is None or not net.heads[1].weight.grad.any()
        assert all(value.isfinite().all() for value in weighting.parameters())
    assert all(gradient.isfinite().all() for gradient in found)
    torch.testing.assert_close(found[:3], found[3:])
    assert found[0].any()


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_of_one_task_alone_works(name: str) -> None:
    net = Net()
    got = gradients(EVERY[name](3), net.losses(), torch.tensor([0.0, 1.0, 0.0]), net.shared)
    assert got.isfinite().all()
    assert got.any()


@pytest.mark.parametrize("name", EVERY)
def test_a_resumed_weighting_goes_on_with_the_same_bits(name: str) -> None:
    shares = [even(3), torch.tensor([0.5, 0.5, 0.0]), even(3), torch.tensor([0.2, 0.0, 0.8]), even(3)]

    def run(resume_at: int | None) -> list[Tensor]:
        net, weighting, found = Net(), EVERY[name](3), []
        for step, share in enumerate(shares):
            if step == resume_at:
                state = copy.deepcopy(weighting.state_dict())
                weighting = EVERY[name](3)
                weighting.load_state_dict(state)
            torch.manual_seed(step)
            found.append(gradients(weighting, net.losses(step), share, net.shared))
        return found

    for whole, resumed in zip(run(None), run(3), strict=True):
        assert torch.equal(whole, resumed)


def toy(x: Tensor) -> Tensor:
    """The two losses of Liu et al. 2021 (CAGrad), section 5 and appendix: a valley for each task, then two bowls."""
    slope = torch.tanh(-x[1])
    valley = torch.stack([0.5 * (-x[0] - 7) - slope, 0.5 * (-x[0] + 3) + slope + 2]).abs().clamp(min=5e-6).log() + 6
    bowl = torch.stack([(-x[0] + 7).square(), (-x[0] - 7).square()]) / 10 + 0.01 * (-x[1] - 8).square() - 20
    above, below = torch.tanh(x[1] / 2).clamp(min=0), torch.tanh(-x[1] / 2).clamp(min=0)
    return valley * above + bowl * below


def test_nash_goes_on_from_its_last_weights_as_torchjd_does() -> None:
    ours, theirs = Surgery(3, "nash"), aggregation.NashMTL(3)
    generator = torch.Generator().manual_seed(2)
    for _ in range(4):
        rows = torch.randn(3, 5, generator=generator)
        theta, losses = linear(rows.tolist())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = theirs(rows)
        torch.testing.assert_close(gradients(ours, losses, even(3), [theta]), wanted, rtol=1e-4, atol=1e-5)
        assert ours.alpha.tolist() == pytest.approx(theirs.weighting.prvs_alpha.tolist(), rel=1e-4)


def walk(weighting: Weighting, start: tuple[float, float], steps: int, lr: float) -> list[float]:
    x = nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.Adam([x], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        weighting.backward(toy(x), even(2), [x], torch.Tensor.backward)
        optimizer.step()
    return x.tolist()


# From the start points of the paper. The Pareto set is -7 <= x1 <= 7 at x2 = -8.36; benchmarks/conflict.py has it all.
def test_surgery_goes_down_the_valley_of_the_toy_problem_in_which_the_plain_sum_stays() -> None:
    plain, projected = (walk(weighting, (9.0, 9.0), 2200, 0.005)[1] for weighting in (Fixed(2), Surgery(2, "pcgrad")))
    assert plain > 1
    assert projected < 0


@pytest.mark.parametrize("method", ["pcgrad", "imtl", "upgrad"])
def test_surgery_reaches_the_pareto_set_of_the_toy_problem(method: str) -> None:
    x1, x2 = walk(Surgery(2, method), (-8.5, -5.0), 600, 0.05)
    assert -7.1 < x1 < 7.1
    assert x2 == pytest.approx(-8.36, abs=0.2)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Fixed(2, [1.0]), "2 weights, got 1"),
        (lambda: Fixed(3).backward(torch.ones(2), torch.ones(2), [], print), r"shape \[3\]"),
        (lambda: Surgery(2).backward(torch.ones(2), torch.ones(2), [], print), "expected shared parameters"),
        (lambda: GradNorm(2).backward(torch.ones(2), torch.ones(2), [], print), "expected shared parameters"),
    ],
)
def test_bad_arguments_are_named(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_surgery_without_torchjd_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ImportError, match=r'pip install "torchjd\[cagrad,nash-mtl,quadprog-projector\]"'):
        Surgery(2)


def test_gradnorm_weights_stay_positive() -> None:
    weighting = GradNorm(2, alpha=0.0, step=50.0)
    weighting.update(torch.ones(2), torch.tensor([True, True]), torch.tensor([5.0, 0.1]))
    assert float(weighting.w.min()) >= FLOOR / 100
