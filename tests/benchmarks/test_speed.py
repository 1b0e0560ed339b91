"""The benchmark of speed: its arithmetic, and that its quick form runs."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from metabox.learners import CNP
from metabox.targets import Classes, TaskSpec
from metabox.testing import make_episodes


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


@pytest.mark.parametrize("module", ["stopwatch"], indirect=True)
def test_the_exponent_of_a_power_is_its_exponent(module: ModuleType) -> None:
    sizes = [1, 2, 4, 8, 16]
    assert module.exponent(sizes, [3.0 * size**1.5 for size in sizes]) == 1.5
    assert module.exponent(sizes, [9.0, 9.0, 5.0, 5.0, 5.0]) == 0  # what is constant in small sizes is left out


@pytest.mark.parametrize("module", ["stopwatch"], indirect=True)
def test_what_is_timed_takes_turns_and_keeps_its_name(module: ModuleType) -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    times = module.interleaved(calls, rounds=3, at_least_ms=0.0)
    assert order[-6:] == ["a", "b"] * 3
    assert times.keys() == {"a", "b"}
    assert all(t["q1"] <= t["median"] <= t["q3"] for t in times.values())


@pytest.mark.parametrize("module", ["stopwatch"], indirect=True)
def test_kept_bytes_grow_with_the_tasks_and_leave_the_weights_out(module: ModuleType) -> None:
    spec = TaskSpec((4,), Classes(3))
    objective = module.objective_for(CNP, spec)
    few, many = (module.kept_bytes(objective, make_episodes(spec, n).to(module.DEVICE)) for n in (10, 20))
    assert 1.9 * few < many < 2.1 * few


@pytest.mark.parametrize("module", ["scaling"], indirect=True)
def test_the_model_of_scaling_has_its_closed_forms(module: ModuleType) -> None:
    assert module.all_reduce_ms(4e6, 1, 1.0, 1e-5) == 0
    assert module.all_reduce_ms(4e6, 2, 1.0, 0.0) == pytest.approx(4.0)  # each half goes there and back
    assert module.efficiency(100.0, 50.0) == 1.0  # hidden
    assert module.efficiency(100.0, 150.0) == 0.5


def call_main(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """The script, in this process: starting another would cost more than what it does."""
    monkeypatch.setattr(sys, "argv", ["speed.py", *map(str, arguments)])
    monkeypatch.setattr(module, "limits", dict)
    module.main()


@pytest.mark.parametrize("module", ["speed"], indirect=True)
def test_the_quick_form_measures_every_part_that_needs_no_data(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, parts = tmp_path / "speed.json", ["steps", "weighting", "memory", "growth"]
    call_main(module, monkeypatch, "--quick", "--out", out, "--parts", *parts)
    result = json.loads(out.read_text())
    assert result.keys() == {*parts, *(f"{part}_measured_with" for part in parts)}
    assert all(result[part] for part in parts)
    for curve in result["growth"]:
        assert len(curve["points"]) == len(curve["sizes"]) == 2
        assert curve["exponent"].keys() >= {"training_ms", "kept_mb"}
