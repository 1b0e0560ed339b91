"""The profile of steps: times of operations become shares, and what is in none of them is Python."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return importlib.import_module("profile_steps")


def event(name: str, us: float, children: Sequence[Any] = ()) -> Any:
    made = SimpleNamespace(name=name, cpu_children=list(children), cpu_parent=None)
    made.time_range = SimpleNamespace(elapsed_us=lambda: us)
    for child in children:
        child.cpu_parent = made
    return made


def all_of(events: Sequence[Any]) -> list[Any]:
    return [e for one in events for e in (one, *all_of(one.cpu_children))]


def test_an_operation_counts_once_with_what_it_calls(profile: ModuleType) -> None:
    backward = event("autograd::engine::evaluate_function: X", 30, [event("aten::convolution_backward", 20)])
    events = [
        event("sampling", 100, [event("aten::mm", 60)]),
        event("aten::linear", 50, [event("aten::t", 5), event("aten::addmm", 40)]),
        event("aten::scaled_dot_product_attention", 70, [event("aten::bmm", 60)]),
        event("Optimizer.step#AdamW.step", 90, [event("aten::_fused_adamw_", 50)]),
        backward,
    ]
    found = profile.shares(all_of(events), 1000.0)
    assert found == {
        "sampling": 0.1,
        "optimizer": 0.09,
        "attention": 0.07,
        "convolution": 0.02,
        "matrix products": 0.04,
        "other operations": 0.02,
        "Python": 0.66,
    }


def test_torch_calls_them_by_these_names(profile: ModuleType) -> None:
    """So that a new version of torch cannot empty a column unseen."""
    import torch
    from torch.nn import functional as F

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        weight = torch.randn(4, 1, 3, 3, requires_grad=True)
        optimizer = torch.optim.AdamW([weight], fused=True)
        h = F.conv2d(torch.randn(2, 1, 8, 8), weight).flatten(2)
        F.scaled_dot_product_attention(h, h, h).sum().backward()
        optimizer.step()
        with torch.profiler.record_function(profile.SAMPLING):
            torch.randn(9) @ torch.randn(9, 9)
        torch.randn(9, 9) @ torch.randn(9, 9)
    spent = profile.shares(list(profiler.events()), 100.0)
    assert [kind for kind in profile.KINDS if spent[kind] <= 0] == []
