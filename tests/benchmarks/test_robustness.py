"""A short version of the campaign of harm, whose whole is `python benchmarks/robustness.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "robustness.py"


PRELOADED = """
import runpy, sys
import lightning_fabric, torch._dynamo  # not by each of the children anew, which are forks of this process
import metabox.recipe, metabox.training.loop
del sys.argv[0]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="children are forked")
def test_nothing_is_lost_left_or_silent(tmp_path: Path) -> None:
    kinds = {"kills": ["training", "packing"], "flips": ["checkpoint", "pack"]}
    words = [*kinds, "-n", "2", "--kinds", *kinds["kills"], *kinds["flips"], "--seed", "5"]
    command = [sys.executable, "-c", PRELOADED, str(SCRIPT), *words, "--out", str(tmp_path / "harm.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "harm.json").read_text())
    for part, names in kinds.items():
        assert {row["kind"]: row["tries"] for row in found[part]} == dict.fromkeys(names, 2)


def test_the_committed_campaign_is_whole_and_found_nothing() -> None:
    result = json.loads((SCRIPT.parent / "results" / "robustness.json").read_text())
    assert sum(row["tries"] for row in result["kills"]) >= 200
    assert min(row["tries"] for row in result["kills"]) >= 30
    assert not any(row["lost"] + row["leftovers"] + row["alive"] for row in result["kills"])
    assert sum(row["tries"] for row in result["flips"]) >= 200
    assert not any(row["silent"] + row["tracebacks"] for row in result["flips"])
    assert len({row["kind"].partition(" on ")[2] for row in result["disks"]}) >= 12
    assert not any(row["traceback"] for row in result["disks"])
    assert sum(row["tries"] for row in result["hostile"]) >= 60
    assert not any(row["executed"] + row["crashed"] + row["slow"] for row in result["hostile"])
