"""A minute's version of the campaign of harm, whose whole is `python benchmarks/robustness.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "robustness.py"


@pytest.mark.skipif(sys.platform == "win32", reason="children are forked")
@pytest.mark.parametrize(
    ("part", "kinds", "n"),
    [("kills", ["training", "packing"], 1), ("flips", ["checkpoint", "pack"], 2)],
    ids=["kills", "flips"],
)
def test_nothing_is_lost_left_or_silent(tmp_path: Path, part: str, kinds: list[str], n: int) -> None:
    words = [part, "-n", str(n), "--kinds", *kinds, "--seed", "5", "--out", str(tmp_path / "harm.json")]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "harm.json").read_text())[part]
    assert {row["kind"]: row["tries"] for row in rows} == dict.fromkeys(kinds, n)


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
