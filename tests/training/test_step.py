"""One step: it waits for no device, a bad one changes nothing, and the average is that of its formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded import NoWait, WaitsForTheDevice
from torch import Tensor
from toys import Signs, Toy, named_rows

from metabox.discover import subclasses
from metabox.episodes import Episodes
from metabox.learners import CNP, LSTM, HardSharing, InContext, ProtoNet
from metabox.objectives import QueryLoss, StreamLoss
from metabox.tasks import GaussianProcess, Glyphs, InMemory
from metabox.training.average import Average
from metabox.training.engine import engine_of
from metabox.training.loop import run
from metabox.training.preflight import prepare
from metabox.training.settings import OuterLoop
from metabox.training.step import Step, seed_generators

QUICK = OuterLoop(steps=9, n_tasks=4, precision="32", accelerator="cpu", compile="off", warmup=0, average=0.9)
SMALL = partial(Glyphs, n_way=5, n_shot=1, n_query=2)
RUNS: dict[str, tuple[Callable[[], Any], Any, dict[str, Any], OuterLoop]] = {
    "ProtoNet": (SMALL, ProtoNet, {}, QUICK),
    "InContext": (SMALL, InContext, {}, replace(QUICK, accumulate=2, precision="bf16")),
    "CNP": (GaussianProcess, CNP, {}, QUICK),
    "LSTM": (SMALL, LSTM, {"objective": StreamLoss}, QUICK),
    "RMSprop": (Signs, CNP, {}, replace(QUICK, optimizer="rmsprop", momentum=0.9)),
    "SGD": (Signs, CNP, {}, replace(QUICK, optimizer="sgd", momentum=0.9)),
    "Muon": (SMALL, ProtoNet, {}, replace(QUICK, optimizer="muon")),
}
ASKS_THE_HOST = ("Surgery", "GradNorm")
"""Weightings that read which tasks a batch has; Surgery is solved on the host too."""
for _found in subclasses("Weighting"):
    if _found.name not in ASKS_THE_HOST:
        _tasks = partial(InMemory, named_rows(), n_query=3)
        RUNS[_found.name] = (_tasks, HardSharing, {"weighting": _found.load()}, QUICK)


def made(tasks: Any, learner: Any, outer: OuterLoop, objective: Any = None, weighting: Any = None) -> Step:
    fabric = engine_of(outer)
    fabric.launch()
    prepared = prepare(
        fabric, tasks, learner, outer, None, objective, weighting, None, "training", None, None, 0, ("train",)
    )
    step = Step(fabric, prepared)
    step.module.train()
    return step


@pytest.mark.parametrize("name", RUNS)
def test_a_step_from_sampling_to_average_reads_no_number(name: str) -> None:
    tasks, learner, more, outer = RUNS[name]
    step = made(tasks(), learner, outer, **more)
    with NoWait():
        for number in range(3):
            good, numbers = step(number)
    assert good
    assert all(value.shape == () for value in numbers.values())


@pytest.mark.parametrize("read", [Tensor.item, bool, lambda x: x[x > 0], torch.nonzero])
def test_reading_a_number_would_be_seen(read: Callable[[Tensor], object]) -> None:
    with NoWait(), pytest.raises(WaitsForTheDevice):
        read(torch.ones(1))


@pytest.mark.cuda
@pytest.mark.parametrize("name", RUNS)
def test_a_step_on_a_gpu_never_waits_for_it(name: str) -> None:
    tasks, learner, more, outer = RUNS[name]
    step = made(tasks(), learner, replace(outer, accelerator="cuda"), **more)
    for number in range(2):  # kernels are loaded, and memory is taken
        step(number)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        good, _ = step(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert good


# Bad steps


class Spoilt(QueryLoss):
    """A loss that is not finite, after batch norm has seen infinite inputs; or one whose gradient alone is not."""

    how: str | None = None

    def forward(self, episodes: Episodes) -> dict[str, Tensor]:
        if self.how == "loss":
            episodes.support.x.fill_(torch.inf)
        found = super().forward(episodes)
        if self.how == "gradient":
            found["loss"].register_hook(lambda g: g * torch.nan)
        return found


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "adam": {"optimizer": "adam"},
    "rmsprop": {"optimizer": "rmsprop"},
    "rmsprop with momentum": {"optimizer": "rmsprop", "momentum": 0.9},
    "sgd": {"optimizer": "sgd"},
    "sgd with momentum": {"optimizer": "sgd", "momentum": 0.9},
    "muon": {"optimizer": "muon"},
}


def tensors(step: Step) -> dict[str, Tensor]:
    """All that a checkpoint holds."""
    found = {f"{name}.{key}": value for name, part in step.saved.items() for key, value in part.state_dict().items()}
    for number, state in step.optimizer.state_dict()["state"].items():
        found |= {f"{number}.{name}": value for name, value in state.items() if isinstance(value, Tensor)}
    return {name: value.clone() for name, value in found.items()}


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_bad_step_leaves_weights_moments_buffers_and_average_as_they_were(kind: str, how: str) -> None:
    step, twin = (made(Signs(), Toy, replace(QUICK, **OPTIMIZERS[kind]), Spoilt) for _ in range(2))
    numbers = [0, 1, 2, 3, 4]
    for number in numbers:
        step.model.how = how if number in (0, 2, 3) else None
        before = tensors(step)
        good, found = step(number)
        assert bool(good) is (number not in (0, 2, 3))
        assert math.isfinite(found["loss"]) is (bool(good) or how == "gradient")
        if good:
            twin(number)
        elif number:
            after = tensors(step)
            assert all(torch.equal(before[name], after[name]) for name in before)
    one, two = tensors(step), tensors(twin)
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_the_numbers_of_bad_steps_count_for_nothing_and_the_end_comes_at_the_next_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metabox.training.loop.LOG_EVERY", 7)
    made_steps: list[int] = []
    call = Step.__call__

    def spoil(self: Step, step: int, hooks: Any = ()) -> Any:
        made_steps.append(step)
        self.model.how = "loss" if step in (1, *range(8, 99)) else None  # type: ignore[assignment]
        return call(self, step, hooks)

    monkeypatch.setattr(Step, "__call__", spoil)
    outer = replace(QUICK, steps=99, validate_every=99, max_skipped=3)
    with pytest.raises(FloatingPointError, match=r"in 3 steps in a row, up to step 10; no checkpoint yet\. Lower lr"):
        run(Signs(), Toy, outer, objective=Spoilt, out=tmp_path)
    assert made_steps == [*range(14)]
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert '"skipped": 1' in line
    assert "NaN" not in line


# Average and seeds


@pytest.mark.parametrize("decay", [0.05, 0.9, 0.999])
def test_the_average_is_bit_for_bit_that_of_torch_with_this_decay(decay: float) -> None:
    from torch.optim.swa_utils import AveragedModel

    def update(averages: Any, values: Any, n: Tensor) -> None:
        weight = 1 - min(decay, (1 + int(n)) / (10 + int(n)))
        for average, value in zip(averages, values, strict=True):
            average.lerp_(value, weight) if average.is_floating_point() else average.copy_(value)

    toy = Toy(Signs.spec)
    theirs = AveragedModel(toy, multi_avg_fn=torch.no_grad()(update), use_buffers=True)
    ours, good = Average(toy, decay), torch.tensor(True)
    for number in range(12):
        torch.manual_seed(number)
        for tensor in (*toy.parameters(), *toy.buffers()):
            tensor.data.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else tensor + 1)
        theirs.update_parameters(toy)
        ours.update(toy, good)
        before = deepcopy(ours.state_dict())
        ours.update(toy, ~good)
        assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())
        wanted, found = theirs.module.state_dict(), ours.module.state_dict()
        assert all(torch.equal(wanted[name], found[name]) for name in wanted), number


def test_seeding_draws_what_torch_draws_from_that_seed() -> None:
    torch.manual_seed(2**62 + 3)
    wanted = torch.rand(5)
    seed_generators(2**62 + 3, torch.device("cpu"))
    assert torch.equal(torch.rand(5), wanted)
