"""Surgery on gradients against closed forms and torchjd itself, and its way through the toy problem."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from metabox.multitask import Fixed, Surgery
from metabox.multitask.surgery import METHODS
from metabox.training.weighting import Weighting

pytest.importorskip("torchjd")
from torchjd import aggregation
from weighting_cases import Net, checked, even, gradients, linear


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
    """torchjd's own aggregation of a Jacobian; for MGDA, whose steps stop short there, scipy's by another method."""
    k = len(jacobian)
    if method == "mgda":
        rows = jacobian.detach().double().numpy()
        whole = {"type": "eq", "fun": lambda w: w.sum() - 1}
        found = minimize(
            lambda w: ((w @ rows) ** 2).sum(), [1 / k] * k, bounds=[(0, 1)] * k, constraints=whole, tol=1e-12
        )
        return torch.from_numpy(found.x @ rows).to(jacobian)
    if method == "nash":
        with pytest.warns(UserWarning, match="DPP"):
            return aggregation.NashMTL(k)(jacobian)
    makers = {"imtl": aggregation.IMTLG, "upgrad": aggregation.UPGrad}
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


def test_surgery_without_torchjd_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ImportError, match=r'pip install "torchjd\[cagrad,nash-mtl,quadprog-projector\]"'):
        Surgery(2)
