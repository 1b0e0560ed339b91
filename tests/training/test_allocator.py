"""The memory of the process."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from toys import Signs

from metabox import evaluation
from metabox.learners import CNP
from metabox.training import loop
from metabox.training.settings import OuterLoop

FAULTS = """
import resource, sys
import torch
from metabox.training.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
torch.set_num_threads(1)
large = 48 << 20  # bytes: the C library gives back what is larger than 32 MiB, whatever it has learned
for _ in range(20):
    torch.zeros(large, dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(large, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the C library of GNU can be told to keep memory")
def test_memory_that_is_freed_is_kept_and_not_paid_for_again() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("kept") < 1000 < faults("given back")


def test_training_and_evaluation_on_a_cpu_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for module in (loop, evaluation):
        monkeypatch.setattr(module, "keep_freed_memory", lambda module=module: asked.append(module.__name__))
    outer = OuterLoop(steps=1, n_tasks=1, validate_every=1, n_validation=1, accelerator="cpu")
    loop.run(Signs(), CNP, outer, out=tmp_path)
    assert set(asked) == {"metabox.training.loop", "metabox.evaluation"}
