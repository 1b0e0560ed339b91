"""A slice of the malformed calls, whose whole is `python benchmarks/malformed.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "malformed.py"


def test_a_slice_of_the_malformed_calls_is_answered_by_what_was_expected_and_what_came(tmp_path: Path) -> None:
    out = tmp_path / "malformed.json"
    kinds = ["constructors", "batches", "sampling", "functions", "files"]  # learners: see the conformance suite
    words = [*kinds, "--every", "29", "--out", str(out)]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + (out.read_text() if out.exists() else "")
    rows = json.loads(out.read_text())["malformed"]
    assert [row["kind"] for row in rows] == kinds
    assert all(row["calls"] == row["ours"] + row["python"] > 0 for row in rows)


def test_the_committed_figure_is_of_a_thousand_calls_and_more_and_none_was_answered_otherwise() -> None:
    result = json.loads((SCRIPT.parent / "results" / "malformed.json").read_text())
    rows = result["malformed"]
    assert sum(row["calls"] for row in rows) >= 1000
    assert len(rows) == 7
    assert not result["not_answered_well"]
    assert not any(row["foreign"] + row["accepted"] for row in rows)
