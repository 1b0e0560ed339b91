"""The tests that need a CUDA device, run by gpu.py; for pytest, a plugin that records every outcome at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from alone import Tell, first_line

ROOT = Path(__file__).parents[1]
REPORTS = "METABOX_GPU_REPORTS"


def pytest_runtest_logreport(report: Any) -> None:
    """Write a line for each outcome immediately, because the tests may be stopped early."""
    counts = report.when == "call" or report.outcome != "passed"
    if REPORTS not in os.environ or "PYTEST_XDIST_WORKER" in os.environ or not counts:
        return
    line = {"test": report.nodeid, "outcome": report.outcome, "s": report.duration}
    if isinstance(report.longrepr, tuple):  # of a skipped test
        line |= {"why": first_line(str(report.longrepr[2]))}
    elif (crash := getattr(report.longrepr, "reprcrash", None)) is not None:
        line |= {"why": first_line(crash.message), "at": f"{Path(crash.path).name}:{crash.lineno}"}
    else:
        line |= {"why": first_line(str(report.longrepr or ""))}
    with Path(os.environ[REPORTS]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def device_tests(tell: Tell, data_root: str | None, seconds: float, reports: str) -> None:
    """All tests with the mark `cuda`."""
    files = [p for p in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.cuda" in p.read_text(encoding="utf-8")]
    paths = [str(ROOT), str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, REPORTS: reports, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"METABOX_DATA": data_root} if data_root else {}
    options = ["-m", "cuda", "-p", "gpu_tests", "-p", "no:cacheprovider", "-W", "ignore", "-n", "6", "--timeout", "60"]
    command = [sys.executable, "-m", "pytest", *options, "--tb", "short", *map(str, files)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
        tell({"exit_code": process.returncode, "end_of_output": printed.splitlines()[-3:]})
        Path(f"{reports}.txt").write_text(printed, encoding="utf-8")
    except subprocess.TimeoutExpired:
        tell({"left_out": f"not done after {seconds:.0f} s; those that were done are counted"})


def outcomes(reports: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in reports.read_text(encoding="utf-8").splitlines()] if reports.exists() else []
    skipped: dict[str, int] = {}
    for line in lines:
        if line["outcome"] == "skipped":
            skipped[line["why"]] = skipped.get(line["why"], 0) + 1
    return {
        "passed": sum(line["outcome"] == "passed" for line in lines),
        "skipped": skipped,
        "failed": [
            {key: line[key] for key in ("test", "why", "at") if key in line}
            for line in lines
            if line["outcome"] == "failed"
        ],
        "slowest": {line["test"]: round(line["s"], 1) for line in sorted(lines, key=lambda line: -line["s"])[:8]},
    }
