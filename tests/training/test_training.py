"""The outer loop: it learns, resumes exactly, stops cleanly, and survives bad steps and bad files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toys import Signs, Toy

from metabox.episodes import Device, Episodes
from metabox.evaluation import evaluate
from metabox.learners.base import Learner
from metabox.objectives import QueryLoss
from metabox.targets import TaskSpec
from metabox.tasks.place import Place
from metabox.training.loop import run
from metabox.training.settings import OuterLoop

SCRIPT = Path(__file__).parents[1] / "train_toy.py"
QUICK = OuterLoop(steps=40, n_tasks=8, validate_every=10, n_validation=20, precision="32", warmup=5)


def same(a: Path, b: Path) -> bool:
    one, two = load_file(a), load_file(b)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_clock(out: Path) -> list[dict]:
    kept = [{k: v for k, v in line.items() if k != "seconds"} for line in lines(out)]
    for line in kept:
        line.get("train", {}).pop("tasks_per_s", None)
    return kept


def test_training_learns_and_leaves_everything_that_a_run_has(tmp_path: Path) -> None:
    settings = OuterLoop(
        steps=800, n_tasks=32, lr=1e-2, validate_every=200, n_validation=50, precision="32", average=0.99
    )
    learner = run(Signs(), Toy, settings, out=tmp_path)
    assert evaluate(learner, Signs(), n_tasks=200).mean("accuracy") > 0.75
    assert not learner.training
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        ".lock",
        "best.safetensors",
        "checkpoints",
        "environment.json",
        "metrics.jsonl",
        "model.json",
        "tensorboard",
    }
    assert [line["step"] for line in lines(tmp_path) if "val" in line] == [200, 400, 600, 800]
    assert {"loss", "accuracy", "gradient_norm", "tasks_per_s"} <= lines(tmp_path)[0]["train"].keys()
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000600", "step-00000800"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_leave_a_checkpoint_to_go_on_from(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, SCRIPT, tmp_path / "run", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            while process.poll() is None and not list((tmp_path / "run" / "checkpoints").glob("step-*")):
                time.sleep(0.02)
            process.send_signal(number)
            said, _ = process.communicate()
        finally:
            process.kill()  # if the test was stopped: nobody waits for it in vain
    assert process.returncode == 130
    step = int(said.split("step ")[1].split(";")[0])
    assert (tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / "state.json").exists()


def test_a_stop_between_validations_changes_nothing_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(Signs(), Toy, QUICK, out=tmp_path / "whole")
    sample, calls = Signs.sample, 0

    def interrupt(self: Signs, place: Place, device: Device = "cpu") -> Episodes:
        nonlocal calls
        calls += place.split == "train" and place.n_tasks == QUICK.n_tasks  # not those of the statistics
        if calls == 15:
            signal.raise_signal(signal.SIGINT)
        return sample(self, place, device)

    monkeypatch.setattr(Signs, "sample", interrupt)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 14"):
        run(Signs(), Toy, QUICK, out=tmp_path / "stopped")
    monkeypatch.undo()
    run(Signs(), Toy, QUICK, out=tmp_path / "stopped")
    assert same(tmp_path / "whole" / "best.safetensors", tmp_path / "stopped" / "best.safetensors")
    assert without_clock(tmp_path / "whole") == without_clock(tmp_path / "stopped")


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    run(Signs(), Toy, QUICK, out=tmp_path)
    before = (tmp_path / "best.safetensors").stat().st_mtime_ns
    run(Signs(), Toy, QUICK, out=tmp_path)
    assert (tmp_path / "best.safetensors").stat().st_mtime_ns == before


def test_going_on_with_other_settings_is_refused(tmp_path: Path) -> None:
    run(Signs(), Toy, QUICK, out=tmp_path)
    with pytest.raises(ValueError, match=r"outer.lr: 0.002 there, 0.1 now"):
        run(Signs(), Toy, OuterLoop(**{**QUICK.__dict__, "lr": 0.1}), out=tmp_path)


def test_going_on_with_another_learner_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    run(Signs(), Toy, QUICK, out=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"learner\.class: toys\.Toy there, (.|\n)*use another folder"):
        run(Signs(), lambda spec: Wide(spec), QUICK, out=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


class Wide(Toy):
    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        self.decode = torch.nn.Sequential(torch.nn.Linear(19, 64), torch.nn.ReLU(), torch.nn.Linear(64, self.n_params))


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(Signs(), Toy, QUICK, out=tmp_path / "whole")
    run(Signs(), Toy, QUICK, out=tmp_path / "damaged")
    (tmp_path / "damaged" / "checkpoints" / "step-00000040" / "optimizer.safetensors").write_bytes(b"half")
    run(Signs(), Toy, QUICK, out=tmp_path / "damaged")
    assert "step-00000040 cannot be read" in caplog.text
    name = "checkpoints/step-00000040/model.safetensors"
    assert same(tmp_path / "whole" / name, tmp_path / "damaged" / name)


class BadSteps(QueryLoss):
    """A loss that is not a number at some steps, after batch norm has seen infinite inputs."""

    bad: range = range(0)
    calls = -1  # the first is the trial before the first step

    def forward(self, episodes: Episodes) -> dict[str, torch.Tensor]:
        type(self).calls += 1
        if type(self).calls - 1 in self.bad:
            episodes.support.x.fill_(torch.inf)
        return super().forward(episodes)


def test_steps_with_a_loss_that_is_not_finite_are_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BadSteps, "bad", range(20, 24))
    monkeypatch.setattr(BadSteps, "calls", -1)
    learner = run(Signs(), Toy, QUICK, objective=BadSteps, out=tmp_path)
    assert all(tensor.isfinite().all() for tensor in learner.state_dict().values())
    saved = json.loads((tmp_path / "checkpoints" / "step-00000040" / "state.json").read_text())
    assert saved["state"]["skipped"] == 4


def test_a_run_that_diverges_stops_and_keeps_its_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BadSteps, "bad", range(23, 1000))
    monkeypatch.setattr(BadSteps, "calls", -1)
    settings = OuterLoop(**{**QUICK.__dict__, "max_skipped": 5})
    with pytest.raises(
        FloatingPointError, match="not finite in 5 steps in a row, up to step 27; the checkpoint of step 20"
    ):
        run(Signs(), Toy, settings, objective=BadSteps, out=tmp_path)
    weights = load_file(tmp_path / "checkpoints" / "step-00000020" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_accumulating_batches_gives_the_gradient_of_all_tasks_at_once(tmp_path: Path) -> None:
    class Plain(Toy):  # batch norm sees smaller batches when they are split, so leave it out here
        def __init__(self, spec: object) -> None:
            super().__init__(spec)  # type: ignore[arg-type]
            self.encode = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh())

    for name, accumulate in (("once", 1), ("split", 4)):
        settings = OuterLoop(**{**QUICK.__dict__, "steps": 5, "accumulate": accumulate, "validate_every": 5})
        run(Signs(), Plain, settings, out=tmp_path / name)
    one, two = (load_file(tmp_path / name / "best.safetensors") for name in ("once", "split"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)


def test_patience_stops_a_run_that_no_longer_improves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = OuterLoop(**{**QUICK.__dict__, "lr": 1e-12, "patience": 2, "steps": 1000, "average": 0.0})
    run(Signs(), Toy, settings, out=tmp_path)
    best = [line for line in lines(tmp_path) if "val" in line]
    values = [line["val"]["accuracy"] for line in best]
    assert len(values) < 100
    assert values[-2] <= max(values[:-2])
    assert values[-1] <= max(values[:-2])
    steps = len(best)
    run(Signs(), Toy, settings, out=tmp_path)  # stopped is finished
    assert len([line for line in lines(tmp_path) if "val" in line]) == steps


def test_another_seed_gives_other_weights_and_the_same_validation_tasks(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    class Noting(Signs):
        def sample(self, place: Place, device: Device = "cpu") -> Episodes:
            asked.append((place.split, place.seed))
            return super().sample(place, device)

    for seed in (0, 1):
        run(Noting(), Toy, QUICK, seed=seed, out=tmp_path / str(seed))
    assert not same(tmp_path / "0" / "best.safetensors", tmp_path / "1" / "best.safetensors")
    assert set(asked) == {("train", 0), ("train", 1), ("val", 0)}


def test_meta_training_never_sees_validation_or_test_tasks_as_training_tasks(tmp_path: Path) -> None:
    splits: list[str] = []

    class Noting(Signs):
        def sample(self, place: Place, device: Device = "cpu") -> Episodes:
            splits.append(place.split)
            return super().sample(place, device)

    run(Noting(), Toy, QUICK, out=tmp_path)
    assert set(splits) == {"train", "val"}


def test_the_moving_average_is_what_is_kept(tmp_path: Path) -> None:
    run(Signs(), Toy, OuterLoop(**{**QUICK.__dict__, "average": 0.9, "validate_every": 40}), out=tmp_path)
    folder = tmp_path / "checkpoints" / "step-00000040"
    best, average = load_file(tmp_path / "best.safetensors"), load_file(folder / "average.safetensors")
    model = load_file(folder / "model.safetensors")
    name = "encode.0.weight"
    assert torch.equal(best[name], average[f"module.learner.{name}"])
    assert not torch.equal(best[name], model[f"learner.{name}"])


def test_bf16_autocast_trains_in_float32_weights(tmp_path: Path) -> None:
    learner: Learner = run(Signs(), Toy, OuterLoop(**{**QUICK.__dict__, "precision": "bf16"}), out=tmp_path)
    assert all(parameter.dtype == torch.float32 for parameter in learner.parameters())
    assert json.loads((tmp_path / "environment.json").read_text())["precision"] == "bf16-mixed"


def test_the_learning_rate_warms_up_and_falls_as_half_a_cosine() -> None:
    outer = OuterLoop(steps=1000, warmup=99, lr=1.0)
    assert outer.lr_at(0) == pytest.approx(0.01, rel=1e-3)
    assert outer.lr_at(500) == pytest.approx(0.505)
    assert outer.lr_at(1000) == pytest.approx(0.01)
    assert OuterLoop(steps=1000, warmup=0, lr=1.0, schedule="constant").lr_at(999) == 1.0


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"n_tasks": 0}, {"lr": 0.0}, {"average": 1.0}, {"patience": -1}, {"optimizer": "sdg"}]
)
def test_settings_out_of_range_are_named(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"expected .*{next(iter(bad))}"):
        OuterLoop(**bad)  # type: ignore[arg-type]


def test_tasks_that_do_not_divide_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected n_tasks as a multiple of devices x accumulate = 1 x 3, got 8"):
        run(Signs(), Toy, OuterLoop(n_tasks=8, accumulate=3), out=tmp_path)
