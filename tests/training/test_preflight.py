"""What can be refused is refused in one line, before anything is written."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import Signs, Toy, named_rows

from metabox.cli.main import main
from metabox.episodes import SPLITS, Device, Episodes
from metabox.evaluation import evaluate, interval_of, mean_of
from metabox.learners import CNP, HardSharing
from metabox.multitask import WorstCase
from metabox.targets import Reals, TaskSpec
from metabox.tasks.named import InMemory
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.training.loop import check, run
from metabox.training.settings import OuterLoop

QUICK: dict[str, Any] = {"steps": 4, "n_tasks": 4, "validate_every": 2, "n_validation": 4, "precision": "32"}

OPTIONS: dict[str, dict[str, Any]] = {
    "expected devices as a whole number of at least 1 or 'auto', got 'x'": {"devices": "x"},
    "expected accelerator as one of 'auto', 'cpu', 'gpu', ": {"accelerator": "gpus"},
    "by running the command again": {"strategy": "ddp_spawn"},
    "\"auto\"), got 'ddp_notebook'": {"strategy": "ddp_notebook"},
}


@pytest.mark.parametrize("says", OPTIONS)
def test_settings_that_nothing_can_run_with_are_refused(says: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # is checked in full
        OuterLoop(**QUICK | OPTIONS[says])
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


class In(Signs):
    """Signs with something wrong in one split."""

    def __init__(self, wrong: str, change: Callable[[Episodes], Episodes]) -> None:
        super().__init__()
        self.wrong, self._change = wrong, change

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        episodes = super().sample(place, device)
        return self._change(episodes) if place.split == self.wrong else episodes


def missing(_: Episodes) -> Episodes:
    raise ValueError("expected 5 classes, got 3 in this split")


def nan_in_support(episodes: Episodes) -> Episodes:
    episodes.support.x[0, 0, 0] = math.nan
    return episodes


def nan_in_query(episodes: Episodes) -> Episodes:
    episodes.query.x[0, 0, 0] = math.nan
    return episodes


def without_query(episodes: Episodes) -> Episodes:
    return replace(episodes, query=replace(episodes.query, mask=torch.zeros_like(episodes.query.mask)))


class Narrow(Toy):
    """Made for other inputs than it says."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        self.encode[0] = torch.nn.Linear(4, 16)


def refuse(_spec: TaskSpec) -> Toy:
    raise ValueError("expected a width of at least 1, got 0")


GOOD: dict[str, Any] = {"tasks": Signs(), "learner": Toy, "outer": OuterLoop(**QUICK)}
SPLIT_FAULTS: dict[str, Callable[[Episodes], Episodes]] = {
    "got 3 in this split": missing,
    "expected finite x": nan_in_support,
    "finite x, got NaN": nan_in_query,
    "expected": without_query,
}
RUNS: dict[str, tuple[dict[str, Any], str]] = {
    **{
        f"{split}: {says}": ({"tasks": In(split, change)}, says)
        for split in SPLITS
        for says, change in SPLIT_FAULTS.items()
        if (split, says) != ("train", "expected")
    },
    "another kind of task": ({"evaluation": InMemory(named_rows(), n_query=2)}, "expected two samplers of one kind"),
    "tasks a step": ({"outer": OuterLoop(**QUICK | {"accumulate": 3})}, "expected n_tasks as a multiple of"),
    "devices": ({"outer": OuterLoop(**QUICK | {"devices": 3, "accelerator": "cpu"})}, "accumulate = 3 x 1, got 4"),
    "a strategy": ({"outer": OuterLoop(**QUICK | {"strategy": "no such"})}, "strategy that this machine has, got"),
    "a learner": ({"learner": refuse}, "expected a width of at least 1"),
    "sizes": ({"learner": Narrow}, "expected a learner that can do the training tasks, got mat1 and mat2"),
    "an objective": ({"objective": lambda *_: missing(None)}, "got 3 in this split"),  # type: ignore[arg-type]
    "a weighting": (
        {
            "weighting": WorstCase,
            "outer": OuterLoop(**QUICK | {"devices": 2, "accelerator": "cpu"}),
            "tasks": InMemory(named_rows(), n_query=2),
            "learner": HardSharing,
        },
        "expected one device with a weighting",
    ),
}
if not torch.cuda.is_available():
    RUNS["no CUDA"] = ({"outer": OuterLoop(**QUICK | {"accelerator": "cuda"})}, "this machine has, got 'cuda', 1")
    RUNS["no GPU"] = ({"outer": OuterLoop(**QUICK | {"accelerator": "gpu"})}, "this machine has, got 'gpu', 1")


@pytest.mark.parametrize("kind", RUNS)
def test_what_cannot_run_is_refused_and_nothing_is_written(tmp_path: Path, kind: str) -> None:
    arguments, says = RUNS[kind]
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # is checked in full
        check(**GOOD | arguments)
    assert says in str(refused.value)
    if not kind.startswith("test: ") and arguments.get("outer", GOOD["outer"]).devices == 1:  # else it starts others
        with pytest.raises(ValueError) as again:  # noqa: PT011
            run(**GOOD | arguments, out=tmp_path / "run")
        assert str(again.value) == str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_only_the_splits_that_are_asked_for_are_checked() -> None:
    tasks = In("test", missing)
    assert check(tasks, Toy, GOOD["outer"], splits=("train", "val"))
    with pytest.raises(ValueError, match="in this split"):
        check(tasks, Toy, GOOD["outer"])


def test_a_command_that_was_refused_does_not_block_the_corrected_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    small = ["--outer.steps", "1", "--outer.n_validation", "2", "--outer.n_tasks", "2", "--n_test", "2"]
    command = ["train", "glyphs-5w1s-incontext", *small, "--out", str(out)]
    for wrong in (["--outer.devices", "x"], ["--outer.accumulate", "3"], ["--outer.strategy", "ddp_spawn"]):
        assert main([*command, *wrong]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("metabox: error: ")
        assert not out.exists()


def test_trying_a_run_changes_nothing_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metabox.training import preflight

    run(**GOOD, out=tmp_path / "tried")
    monkeypatch.setattr(preflight, "_try", lambda *_: None)
    run(**GOOD, out=tmp_path / "not")
    one, two = ((tmp_path / name / "best.safetensors").read_bytes() for name in ("tried", "not"))
    assert one[-1000:] == two[-1000:]  # without the clock in their heads


# ------------------------------------------------------------------------ scores


@pytest.mark.parametrize(
    ("values", "mean", "interval"),
    [
        ([1.0, math.inf], math.inf, math.inf),
        ([-math.inf, 2.0, math.nan], -math.inf, math.inf),
        ([math.inf, -math.inf], math.nan, math.inf),
        ([1.5e308, 1.5e308], math.inf, 0.0),
        ([math.nan], math.nan, math.inf),
        ([1.0, 3.0], 2.0, pytest.approx(12.706, abs=1e-3)),
    ],
)
def test_a_mean_of_infinite_scores_is_infinite_and_no_traceback(
    values: list[float], mean: float, interval: float
) -> None:
    assert mean_of(values) == pytest.approx(mean, nan_ok=True)
    assert interval_of(values) == interval


@pytest.mark.parametrize("part", ["x", "y"])
def test_bad_data_are_named_and_not_blamed_on_the_weights(part: str) -> None:
    class Holes(EpisodeSampler):
        spec = TaskSpec((3,), Reals(1))

        def sample(self, place: Place, device: Device = "cpu") -> Episodes:
            signs = Signs().sample(place, device)
            query = replace(signs.query, y=signs.query.x[..., :1].clone())
            if place.first == 2:
                getattr(query, part)[1, 0, 0] = math.nan
            return Episodes(support=replace(signs.support, y=signs.support.x[..., :1]), query=query)

    learner = CNP(Holes.spec)
    with pytest.raises(ValueError, match=f"expected finite {part}, got NaN .* seen in the val tasks 2 ... 3"):
        evaluate(learner, Holes(), split="val", n_tasks=4, batch=2)
    with torch.no_grad():
        next(learner.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match=r"in the val tasks 0 ... 1, whose data are finite; the learner's weights"):
        evaluate(learner, Holes(), split="val", n_tasks=2, batch=2)


def test_a_warning_of_the_log_is_one_line(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("[\n[1]\n")
    with caplog.at_level(logging.WARNING):
        run(**GOOD, out=tmp_path)
    assert [record.getMessage().count("\n") for record in caplog.records] == [0, 0]
