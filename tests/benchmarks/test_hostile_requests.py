"""A slice of the hostile requests of `benchmarks/hostile_requests.py`, and the committed figures of serving."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_two_hundred_hostile_requests_are_answered_in_a_line_and_leave_the_server_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "hostile.json"
    words = ["--requests", "200", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "hostile_requests.py"), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + (out.read_text() if out.exists() else "")
    check_figure(json.loads(out.read_text()), 200)


def test_the_committed_figure_is_of_ten_thousand() -> None:
    check_figure(json.loads((BENCHMARKS / "results" / "hostile-requests.json").read_text()), 10_000)


def check_figure(found: dict[str, object], n: int) -> None:
    rows = found["hostile_requests"]
    assert isinstance(rows, list)
    assert sum(row["requests"] for row in rows) == n
    assert {answer for row in rows for answer in row["answers"]} <= {"cut off"} | {
        str(status) for status in [200, 201, 400, 403, 404, 405, 408, 413, 415, 422, 431]
    }
    assert found["answered_wrong"] == []
    assert found["answers_to_the_user_unchanged"]
    assert found["server_alive"]
    assert found["files_written"] == []
    assert found["terminal"] == ""


def test_the_committed_rate_of_kept_tasks_is_fifteen_times_that_of_adapting_anew() -> None:
    found = json.loads((BENCHMARKS / "results" / "serving.json").read_text())
    assert found["tasks"] == 1_000
    assert found["batched_times_the_rate_of_anew"]["q1"] >= 15
    assert found["answers_apart_at_most"] <= 1e-5
