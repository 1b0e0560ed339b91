"""The benchmark of GPUs runs on a CPU too, and goes on where something fails or takes too long."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def done(tell: Any) -> None:
    tell({"a": 1})
    tell({"b": 2})


def raises(tell: Any) -> None:
    tell({"a": 1})
    raise ValueError("no such thing\nsecond line")


def dies(tell: Any) -> None:
    tell({"a": 1})
    os.write(1, b"last words\n")
    os.kill(os.getpid(), 9)


def hangs(tell: Any) -> None:
    tell({"a": subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid})
    time.sleep(600)


@pytest.mark.filterwarnings("ignore")  # newer Pythons warn of forks beside threads
@pytest.mark.parametrize("module", ["alone"], indirect=True)
def test_what_fails_or_dies_keeps_what_it_found_and_says_why(module: ModuleType) -> None:
    assert module.Alone(done, seconds=60).result() == {"a": 1, "b": 2}
    assert module.Alone(raises, seconds=60).result() == {"a": 1, "left_out": "ValueError: no such thing"}
    died = {"a": 1, "left_out": "its process ended with -9", "printed": ["last words"]}
    assert module.Alone(dies, seconds=60).result() == died


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("module", ["alone"], indirect=True)
def test_what_hangs_is_ended_with_what_it_has_started(module: ModuleType) -> None:
    found = module.Alone(hangs, seconds=3).result()
    assert found["left_out"] == "not done after 3 s"
    while Path(f"/proc/{found['a']}").exists():  # until its new parent has buried it
        if "Z" in Path(f"/proc/{found['a']}/stat").read_text().rpartition(")")[2].split()[0]:
            break
        time.sleep(0.01)


@pytest.mark.parametrize("module", ["gpu_measures"], indirect=True)
def test_kernels_copies_launches_and_waits_are_told_apart(module: ModuleType) -> None:
    def event(name: str, device: str, note: bool = False) -> Any:
        time_range = SimpleNamespace(elapsed_us=lambda: 500.0)
        return SimpleNamespace(name=name, device_type=device, is_user_annotation=note, time_range=time_range)

    kernels = [event("gemm", "DeviceType.CUDA")] * 4 + [event("Memcpy HtoD", "DeviceType.CUDA")] * 2
    notes = [event("Optimizer.step#AdamW.step", "DeviceType.CUDA"), event("mine", "DeviceType.CUDA", note=True)]
    host = [event(name, "DeviceType.CPU") for name in ("cudaLaunchKernel", "cudaStreamSynchronize", "aten::mm")] * 2
    found = module.profiled(kernels + notes + host)
    assert found == {"kernels": 2, "copies": 1, "launches": 1, "host_waits": 1, "busy_ms": 1.5}


@pytest.mark.parametrize("module", ["gpu_tests"], indirect=True)
def test_outcomes_are_counted_as_far_as_they_came(tmp_path: Path, module: ModuleType) -> None:
    lines = [
        {"test": "a", "outcome": "passed", "why": "", "s": 1.0},
        {"test": "b", "outcome": "failed", "why": "RuntimeError: device", "s": 3.0},
        {"test": "c", "outcome": "skipped", "why": "no torchjd", "s": 0.0},
    ]
    (tmp_path / "reports").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = module.outcomes(tmp_path / "reports")
    assert (found["passed"], found["skipped"]) == (1, {"no torchjd": 1})
    assert found["failed"] == [{"test": "b", "why": "RuntimeError: device"}]
    assert module.outcomes(tmp_path / "none")["passed"] == 0


def test_it_runs_on_a_cpu_and_names_what_it_leaves_out(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--quick", "--recipes", "gp-rbf-cnp", "no-such-recipe", "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "METABOX_DATA"}
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "gpu.py"), *options, "--budget", "200"]
    done = subprocess.run([*command, "--parts", "steps", "sampling"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    good, bad = result["steps"]
    assert {"step_ms", "gflop", "tasks_per_s", "kernels"} <= good.keys()
    assert "left_out" not in good
    assert bad["left_out"].startswith("ValueError: expected a recipe's name")
    assert result["sampling"]["cpu"]["left_out"] == "Omniglot: no --data-root"
