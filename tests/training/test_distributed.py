"""Two processes are one: the same gradients, weights and scores; and where one of them ends, so does the run.

As a script it is one such run: `python test_distributed.py OUT DEVICES STEPS TIMEOUT`; Fabric starts the second
process, or torchrun both.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parents[1]))  # as a script, too, it finds what tests share
from toys import Signs

from metabox.episodes import Device, Episodes
from metabox.evaluation import evaluate
from metabox.files import write_json, write_text
from metabox.learners import CNP
from metabox.tasks.place import Place
from metabox.training.loop import run
from metabox.training.settings import OuterLoop

STEPS = 50  # after which metrics are written
TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
QUIET = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


class Slow(Signs):
    """Leaves time to be killed, and its process's number where the killer finds it."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self._out = out

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        if limit := os.environ.get("SLOW"):
            time.sleep(0.02)
            mine = self._out.parent / f"pid-{os.environ.get('LOCAL_RANK', 0)}"
            if not mine.exists():
                write_text(mine, str(os.getpid()))
                # Only now: to start takes as long as it takes.
                torch.distributed.set_timeout(timedelta(seconds=float(limit)))
        return super().sample(place, device)


def main(out: Path, devices: int, steps: int, timeout: float, strategy: str = "ddp") -> None:
    outer = OuterLoop(
        steps=steps,
        n_tasks=8,
        validate_every=25,
        n_validation=120,  # three batches: one for the second process, two for the first
        warmup=5,
        epsilon=1e-3,  # or Adam would make as much of a gradient of rounding as of another
        precision="32",
        accelerator="cpu",
        devices=devices,
        strategy=strategy if devices > 1 else "auto",
        timeout=timeout,
    )
    best = run(Slow(out), CNP, outer, out=out)
    if strategy == "fsdp":  # once more, as if it had been killed after step 25: to start again would take longer
        if torch.distributed.get_rank() == 0:
            shutil.copytree(out, uninterrupted(out))
            shutil.rmtree(out / "checkpoints" / f"step-{STEPS:08d}")
            first, _, _ = (out / "metrics.jsonl").read_text().partition("\n")
            (out / "metrics.jsonl").write_text(f"{first}\n")
        torch.distributed.barrier()
        best = run(Slow(out), CNP, outer, out=out)
    weights = load_file(out / "best.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in best.state_dict().items())
    torch.manual_seed(0)  # a learner that is the same everywhere, to the bit
    learner = CNP(Signs.spec)
    scores = evaluate(learner, Signs(), n_tasks=40, batch=7, distributed=devices > 1)
    write_json(scores_of(out, int(os.environ.get("LOCAL_RANK", 0))), asdict(scores))


def uninterrupted(out: Path) -> Path:
    return out.parent / "uninterrupted"


def scores_of(out: Path, rank: int) -> Path:
    return out.parent / f"scores-{rank}"


def command(out: Path, devices: int, steps: int = STEPS, timeout: float = 600.0) -> list[str]:
    return [__file__, str(out), str(devices), str(steps), str(timeout)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that one process makes: this one, for to start another takes longer than the run."""
    out = tmp_path_factory.mktemp("alone") / "run"
    main(out, 1, STEPS, 600.0)
    return out


def check_same_run(out: Path, alone: Path) -> None:
    one, two = (
        load_file(folder / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors") for folder in (alone, out)
    )
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)
    first, second = (
        [json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (alone, out)
    )
    assert [line["step"] for line in first] == [line["step"] for line in second] == [25, 50, 50]
    for before, after in zip(first, second, strict=True):
        for kind in {"train", "val"} & before.keys():
            wanted = {name: value for name, value in before[kind].items() if name != "tasks_per_s"}
            assert {name: after[kind][name] for name in wanted} == pytest.approx(wanted, rel=1e-4), kind


def test_two_processes_end_with_the_gradients_weights_and_scores_of_one(tmp_path: Path, alone: Path) -> None:
    done = subprocess.run([*TOGETHER, *command(tmp_path / "run", 2)], check=False, **QUIET)
    assert done.returncode == 0, done.stderr
    check_same_run(tmp_path / "run", alone)
    scores = [json.loads(scores_of(tmp_path / "run", rank).read_text()) for rank in (0, 1)]
    assert scores == [json.loads(scores_of(alone, 0).read_text())] * 2  # of every task, to the bit


def said(out: Path) -> Path:
    return out.parent / "said"


@contextmanager
def started(out: Path, steps: int, limit: float) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A slow run of two processes, once it has a checkpoint, and the number of the second process; ended after it.

    Each waits for the other for `limit` seconds, once both have begun.
    """
    with said(out).open("w") as stream:  # a pipe would be held open by a process that hangs
        process = subprocess.Popen(
            [sys.executable, *command(out, 2, steps)], env=os.environ | {"SLOW": str(limit)}, stderr=stream
        )
    try:
        while process.poll() is None and not list((out / "checkpoints").glob("step-*")):
            time.sleep(0.05)
        assert process.poll() is None, said(out).read_text()
        yield process, int((out.parent / "pid-1").read_text())
    finally:
        process.kill()
        process.wait()
        with suppress(OSError, ValueError):
            os.kill(int((out.parent / "pid-1").read_text()), signal.SIGKILL)


@pytest.mark.parametrize(("number", "limit"), [(signal.SIGKILL, 600.0), (signal.SIGSTOP, 10.0)])
def test_a_process_that_ends_or_hangs_ends_the_run_which_can_go_on(
    tmp_path: Path, alone: Path, number: signal.Signals, limit: float
) -> None:
    out = tmp_path / "run"
    with started(out, STEPS, limit) as (process, other):
        os.kill(other, number)
        assert process.wait() != 0
    assert "another process of this run ended, or did not answer in time" in said(out).read_text()
    subprocess.run([sys.executable, *command(out, 2)], check=True, capture_output=True)
    check_same_run(out, alone)


def test_ctrl_c_stops_both_processes_after_the_same_step(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(out, 100_000, limit=600.0) as (process, other):
        os.kill(other, signal.SIGTERM)
        assert process.wait() != 0
        steps: list[str] = []
        while len(steps) < 2:  # the other may take longer to say so
            time.sleep(0.05)
            steps = re.findall(r"KeyboardInterrupt: stopped after step (\d+)", said(out).read_text())
    assert len(steps) == 2
    assert len(set(steps)) == 1


def test_weights_in_shards_end_as_whole_ones_do_and_a_run_that_was_killed_goes_on(tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "run"
    done = subprocess.run([*TOGETHER, *command(out, 2), "fsdp"], check=False, **QUIET)
    assert done.returncode == 0, done.stderr
    check_same_run(uninterrupted(out), alone)
    check_same_run(out, alone)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"devices": "auto"}, "a number of devices, two in all at least, with fsdp, got 'auto'"),
        ({"devices": 1}, "two in all at least, with fsdp, got 1"),
        ({"devices": 2, "average": 0.9}, "fsdp without average"),
        ({"devices": 2, "compile": "on"}, "fsdp without average and compile"),
    ],
)
def test_what_shards_cannot_do_is_refused_by_name(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        OuterLoop(strategy="fsdp", **arguments)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), *sys.argv[5:])
