"""`precision: auto`: the rule, and that a resumed run keeps what it began with."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toys import Signs, Toy

from metabox.episodes import Device, Episodes
from metabox.learners import CNP, ConvCNP, InContext, ProtoNet
from metabox.nn.backbones import MLP, Flatten
from metabox.nn.towers import Stack
from metabox.targets import Classes, Reals, TaskSpec
from metabox.tasks.place import Place
from metabox.training import precision
from metabox.training.loop import run
from metabox.training.precision import WIDE, choose, faster
from metabox.training.settings import OuterLoop

IMAGES, FUNCTIONS, VECTORS = TaskSpec((1, 28, 28), Classes(5)), TaskSpec((1,), Reals(1)), TaskSpec((5,), Reals(1))
CPU = torch.device("cpu")


def cnp(width: int) -> CNP:
    return CNP(VECTORS, backbone=partial(MLP, width=width, depth=1), width=width)


RULE: dict[str, tuple[Callable[[], torch.nn.Module], str]] = {
    "images": (lambda: ProtoNet(IMAGES), "bf16"),
    "convolutions over functions": (lambda: ConvCNP(FUNCTIONS), "bf16"),
    "convolutions of each task": (lambda: Stack(2, 3, 4, kernel=3), "bf16"),
    "narrow": (lambda: cnp(WIDE // 2), "32"),
    "narrow with attention": (lambda: InContext(VECTORS, backbone=Flatten, width=32, depth=1), "32"),
    "narrow with many inputs": (lambda: torch.nn.Linear(10 * WIDE, WIDE // 2), "32"),
    "wide": (lambda: cnp(WIDE), "bf16"),
    "without weights": (torch.nn.ReLU, "32"),
}


@pytest.mark.parametrize("case", RULE)
def test_on_a_cpu_with_fast_bf16_convolutions_and_wide_layers_use_it(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, expected = RULE[case]
    model = make()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert faster(model, CPU) == expected
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert faster(model, CPU) == "32"


def test_a_gpu_with_bf16_uses_it_for_narrow_learners_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported, expected in ((True, "bf16"), (False, "32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda _, has=supported: has)
        assert faster(cnp(8), torch.device("cuda")) == expected
    assert faster(ProtoNet(IMAGES), torch.device("mps")) == "32"


@pytest.mark.parametrize(
    ("asked", "recorded", "expected"),
    [
        ("bf16", None, "bf16"),
        ("32", "bf16", "32"),
        ("auto", "bf16", "bf16"),
        ("auto", None, "32"),
        ("auto", ["something else"], "32"),
    ],
)
def test_what_is_asked_for_comes_first_then_what_is_recorded_then_the_rule(
    asked: Any, recorded: object, expected: str
) -> None:
    assert choose(OuterLoop(precision=asked), cnp(8), CPU, recorded) == expected


@pytest.mark.parametrize("damaged", [False, True], ids=["", "the newest checkpoint is damaged"])
def test_a_resumed_run_keeps_its_precision_whatever_the_rule_says_now(
    damaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = OuterLoop(steps=20, n_tasks=4, validate_every=5, n_validation=4, warmup=2, accelerator="cpu")

    def train(name: str, rule: str) -> None:
        monkeypatch.setattr(precision, "faster", lambda *_: rule)
        run(Signs(), Toy, quick, out=tmp_path / name)

    train("whole", "bf16")
    train("other", "32")
    with monkeypatch.context() as stopping:
        _stop_at(12, stopping)
        with pytest.raises(KeyboardInterrupt):
            train("stopped", "bf16")
    if damaged:
        newest = max((tmp_path / "stopped" / "checkpoints").iterdir())
        (newest / "state.json").write_text("{")
    train("stopped", "32")

    whole, other, stopped = (load_file(tmp_path / name / "best.safetensors") for name in ("whole", "other", "stopped"))
    assert all(torch.equal(stopped[name], value) for name, value in whole.items())
    assert not all(torch.equal(other[name], value) for name, value in whole.items())
    assert json.loads((tmp_path / "stopped" / "environment.json").read_text())["precision"] == "bf16-mixed"
    state = json.loads((tmp_path / "stopped" / "checkpoints" / "step-00000020" / "state.json").read_text())
    assert (state["settings"]["precision"], state["settings"]["outer"]["precision"]) == ("bf16", "auto")


def _stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Signs.sample

    def stopping(self: Signs, place: Place, device: Device = "cpu") -> Episodes:
        if (place.split, place.index) == ("train", step):
            signal.raise_signal(signal.SIGINT)
        return sample(self, place, device)

    monkeypatch.setattr(Signs, "sample", stopping)
