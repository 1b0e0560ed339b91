"""What holds for every weighting: a missing or bad loss, one task alone, a resume, bad arguments."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metabox.multitask import DWA, Fixed, GradNorm, Random, Surgery, Uncertainty, WorstCase
from metabox.multitask.surgery import METHODS
from metabox.training.weighting import Weighting

pytest.importorskip("torchjd")

from weighting_cases import Net, even, gradients, linear

EVERY: dict[str, Callable[[int], Weighting]] = {
    "fixed": Fixed,
    "uncertainty": Uncertainty,
    "gradnorm": GradNorm,
    "dwa": lambda k: DWA(k, period=2),
    "random": Random,
    "worst": WorstCase,
    **{method: lambda k, method=method: Surgery(k, method) for method in METHODS},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_that_is_not_finite_shows_in_the_gradient_and_not_in_the_state(method: str) -> None:
    weighting = Surgery(2, method)
    theta, losses = linear([[1.0, 2.0], [3.0, -1.0]])
    before = copy.deepcopy(weighting.state_dict())
    got = gradients(weighting, losses * torch.tensor([1.0, math.inf]), even(2), [theta], engine=torch.Tensor.backward)
    assert not got.isfinite().all()
    assert torch.equal(weighting.relative, before["relative"])
    assert torch.equal(weighting.alpha, before["alpha"])


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
def test_frozen_parts_are_passed_over(name: str) -> None:
    """The first layer of the trunk and the head of one task are frozen, the whole of another task too."""
    got = []
    for leave_out in (False, True):
        net = Net()
        for frozen in (net.trunk[0], net.heads[1]):
            frozen.requires_grad_(False)
        shared = [p for p in net.shared if p.requires_grad] if leave_out else net.shared
        trained = [p for p in net.parameters() if p.requires_grad]
        torch.manual_seed(0)
        got.append(gradients(EVERY[name](3), net.losses(), even(3), shared, trained))
        assert net.trunk[0].weight.grad is None
    assert got[0].any()
    assert torch.equal(*got)


@pytest.mark.parametrize("make", [Surgery, GradNorm])
def test_if_all_that_tasks_share_is_frozen_the_message_says_so(make: type[Weighting]) -> None:
    net = Net()
    net.trunk.requires_grad_(False)
    with pytest.raises(ValueError, match="expected shared parameters that are trained, got 4 frozen ones"):
        make(3).backward(net.losses(), even(3), net.shared, print)


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
