"""Steps captured as one CUDA graph: the same steps. On a CPU by a stand-in that runs recorded operations again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded import Recorded, WaitsForTheDevice
from torch import Tensor
from toys import Signs, Toy, named_rows

from metabox.episodes import Device, Episodes, Examples
from metabox.learners import CNP, LSTM, MANN, HardSharing, InContext, ProtoNet
from metabox.learners.base import Phi
from metabox.multitask.weights import Fixed
from metabox.nn.sets import one_hot
from metabox.objectives import QueryLoss, StreamLoss
from metabox.tasks import GaussianProcess, Glyphs, InMemory
from metabox.tasks.place import Place
from metabox.tensors import load_tensors
from metabox.training.engine import engine_of
from metabox.training.graphs import WARM_UP, Captured
from metabox.training.loop import check, run
from metabox.training.preflight import prepare
from metabox.training.settings import OuterLoop
from metabox.training.step import Step

STEPS = 9
QUICK = OuterLoop(
    steps=STEPS, n_tasks=4, validate_every=5, n_validation=4, warmup=4, precision="32", accelerator="cpu", average=0.9
)
SMALL = partial(Glyphs, n_way=3, n_shot=1, n_query=2)


class Small(Toy):
    """With batch norm, and dropout, which draws from the generators that each step seeds; it waits for no device."""

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        labelled = torch.cat([support.x, one_hot(support.y, 2)], -1)
        return {"code": self.encode(labelled.flatten(0, 1)).view(*support.mask.shape, -1).mean(1)}


class Spoilt(QueryLoss):
    """The gradient is NaN if the number of the first query's class is 1: bad steps, decided on the device."""

    def forward(self, episodes: Episodes) -> dict[str, torch.Tensor]:
        found = super().forward(episodes)
        bad = torch.where(episodes.query.y[0, 0] == 1, torch.nan, 1.0)
        return found | {"loss": found["loss"] * bad}


CASES: dict[str, tuple[Callable[[], Any], Any, Any, OuterLoop]] = {
    "AdamW": (Signs, Small, QueryLoss, QUICK),
    "Adam": (Signs, Small, QueryLoss, replace(QUICK, optimizer="adam")),
    "accumulated": (Signs, Small, QueryLoss, replace(QUICK, accumulate=2)),
    "bad steps": (Signs, Small, Spoilt, QUICK),
    "ProtoNet": (SMALL, ProtoNet, QueryLoss, QUICK),
    "InContext": (SMALL, partial(InContext, depth=1), QueryLoss, replace(QUICK, precision="bf16")),
    "LSTM": (Signs, partial(LSTM, width=8), StreamLoss, QUICK),
    "MANN": (Signs, partial(MANN, width=8, rows=7, size=4), StreamLoss, QUICK),
    "MANN, cut": (Signs, partial(MANN, width=8, rows=7, size=4, truncate=4), StreamLoss, QUICK),
}
UNCAPTURED: dict[str, tuple[Callable[[], Any], Any, Any, OuterLoop]] = {
    **CASES,
    "RMSprop": (Signs, Small, QueryLoss, replace(QUICK, optimizer="rmsprop", momentum=0.9)),
    "SGD": (Signs, Small, QueryLoss, replace(QUICK, optimizer="sgd", momentum=0.9)),
    "Muon": (Signs, Small, QueryLoss, replace(QUICK, optimizer="muon")),
    "ragged": (GaussianProcess, partial(CNP, width=8), QueryLoss, QUICK),
}


def trained(case: tuple[Any, Any, Any, OuterLoop], compile_: Any, out: Path) -> dict[str, Any]:
    """Everything in the last checkpoint, and the metrics."""
    tasks, learner, objective, outer = case
    run(tasks(), learner, replace(outer, compile=compile_), objective=objective, out=out)
    folder = out / "checkpoints" / f"step-{STEPS:08d}"
    names = ("model", "average", "optimizer")
    found: dict[str, Any] = {
        f"{n}.{k}": v for n in names for k, v in load_tensors(folder / f"{n}.safetensors")[0].items()
    }
    state = json.loads((folder / "state.json").read_text())["state"]
    return found | {"skipped": state["skipped"], **state["window"]["sums"]}


def assert_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]) if isinstance(value, torch.Tensor) else value == two[name], name


@pytest.mark.parametrize("name", UNCAPTURED)
def test_uncaptured_it_equals_the_eager_loop_bit_for_bit(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="metabox"):
        found = trained(UNCAPTURED[name], "graphs", tmp_path / "graphs")
    assert "there are no CUDA graphs on cpu, training goes on without" in caplog.text
    assert_same(found, trained(UNCAPTURED[name], "off", tmp_path / "off"))


@pytest.mark.parametrize("name", CASES)
def test_replaying_recorded_operations_equals_the_eager_loop_bit_for_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorded()
    monkeypatch.setattr("metabox.training.step.recorder_of", lambda device: recorder)
    # oneDNN's LSTM, which no GPU has, keeps nothing for a backward pass when it is run again without gradients.
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", name != "LSTM")
    found = trained(CASES[name], "graphs", tmp_path / "graphs")
    assert recorder.replays == STEPS - WARM_UP
    assert_same(found, trained(CASES[name], "off", tmp_path / "off"))
    if name == "bad steps":
        assert 0 < found["skipped"] < STEPS


def test_a_run_that_goes_on_from_a_checkpoint_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metabox.training.step.recorder_of", lambda device: Recorded())
    stops = [True]

    class Stopping(Signs):
        def sample(self, place: Place, device: Device = "cpu") -> Episodes:
            if (place.split, place.index) == ("train", 7) and stops.pop():
                raise KeyboardInterrupt
            return super().sample(place, device)

    case = (Stopping, Small, QueryLoss, QUICK)
    with pytest.raises(KeyboardInterrupt):
        trained(case, "graphs", tmp_path / "run")
    stops[:] = [False]
    found = trained(case, "graphs", tmp_path / "run")
    stops[:] = [False]
    assert_same(found, trained(case, "off", tmp_path / "off"))


class Steps:
    """Counts the steps that are not replayed; with `fails`, they cannot be recorded."""

    def __init__(self, fails: bool = False) -> None:
        self.made, self.fails, self.recorder, self.cleared = 0, fails, Recorded(), 0
        self.captured = Captured(self.train, self.clear, self.recorder)

    def clear(self) -> None:
        self.cleared += 1

    def train(self, batches: Sequence[Episodes]) -> Any:
        self.made += 1
        total = sum((batch.query.x.sum() for batch in batches), torch.zeros(()))
        if self.fails:
            float(total)
        return total > 0, {"total": total}

    def __call__(self, n_query: int, index: int) -> bool:
        """Make a step of a size, and check it; returns whether it was replayed."""
        episodes = Glyphs(n_way=2, n_shot=1, n_query=n_query).sample(Place(2, index=index))
        before = self.made
        _, found = self.captured([episodes])
        assert found["total"] == episodes.query.x.sum()
        return self.made == before


def test_one_size_is_captured_and_the_others_are_not() -> None:
    step = Steps()
    sizes = [1, 2, 2, 2, 3, 3, 3, 3, 3, 2, 3, 1, 3]
    replayed = [step(size, index) for index, size in enumerate(sizes)]
    first = 4 + WARM_UP
    assert replayed == [i > first and size == 3 for i, size in enumerate(sizes)]
    assert step.recorder.replays == sum(replayed) + 1


def test_what_cannot_be_captured_is_trained_without_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    step = Steps(fails=True)
    with caplog.at_level(logging.WARNING, logger="metabox"):
        assert not any(step(1, index) for index in range(WARM_UP + 4))
    (said,) = [record.getMessage() for record in caplog.records]
    assert step.cleared == 1
    assert said.startswith("a step cannot be captured as a CUDA graph, training goes on without: _local_scalar_dense")


def test_a_number_on_the_host_would_be_frozen() -> None:
    """What the stand-in is for: it does not see what only the host has changed."""
    counts, recorder = {"host": 0, "device": torch.zeros(())}, Recorded()

    def call() -> Any:
        counts["host"] += 1
        counts["device"] += 1
        return counts["device"] > 0, {"host": counts["device"] * 0 + counts["host"], "device": counts["device"] * 1}

    recorder.record(call)
    for expected in (1, 2, 3):
        _, found = recorder.replay()
        assert (int(found["host"]), int(found["device"])) == (1, expected)


@pytest.mark.parametrize("make", [lambda: torch.tensor([1.0, 2.0]), lambda: torch.ones(3)[[0, 2]]])
def test_numbers_of_the_host_cannot_be_recorded(make: Callable[[], Tensor]) -> None:
    with pytest.raises(WaitsForTheDevice, match="made of numbers on the host"):
        Recorded().record(lambda: (make(), {}))


@pytest.mark.parametrize("more", [{"weighting": Fixed}, {"outer": replace(QUICK, devices=2, compile="graphs")}])
def test_weightings_and_several_devices_are_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    arguments = {"outer": replace(QUICK, compile="graphs"), **more}
    with pytest.raises(ValueError, match="expected one device and no weighting with compile 'graphs', got"):
        check(InMemory(named_rows(), n_query=3), HardSharing, **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.cuda
@pytest.mark.parametrize("name", UNCAPTURED)
def test_on_a_gpu_captured_steps_end_near_eager_ones(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks, learner, objective, outer = UNCAPTURED[name]
    case = (tasks, learner, objective, replace(outer, accelerator="cuda", epsilon=1e-3 if name != "SGD" else 1e-8))
    found, wanted = (trained(case, how, tmp_path / how) for how in ("graphs", "off"))
    assert "training goes on without" not in caplog.text
    for key, value in wanted.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            torch.testing.assert_close(found[key], value, rtol=1e-2, atol=1e-4, msg=key)
    assert found["skipped"] == wanted["skipped"]


@pytest.mark.cuda
def test_on_a_gpu_a_captured_step_is_replayed_without_waiting() -> None:
    step = made(SMALL(), ProtoNet, replace(QUICK, accelerator="cuda", compile="graphs"))
    for number in range(WARM_UP + 2):
        step(number)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        good, _ = step(WARM_UP + 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert good
    assert step.captured is not None
    assert step.captured.inputs is not None


def made(tasks: Any, learner: Any, outer: OuterLoop) -> Step:
    fabric = engine_of(outer)
    fabric.launch()
    step = Step(
        fabric, prepare(fabric, tasks, learner, outer, None, None, None, None, "training", None, None, 0, ("train",))
    )
    step.module.train()
    return step
