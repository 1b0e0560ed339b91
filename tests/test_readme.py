"""The README is true: its script runs, its numbers are those of the committed results."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_script_in_the_readme_trains_and_evaluates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, use = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in script.splitlines() if line.strip()]) <= 20
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(script, "README.md", "exec"), names)
    accuracy = float(re.search(r"accuracy ([\d.]+)%", capsys.readouterr().out).group(1))  # type: ignore[union-attr]
    assert accuracy > 80  # 20 is chance
    exec(compile(use, "README.md", "exec"), names)
    assert capsys.readouterr().out.startswith("['a' 'a' 'b' 'b' 'c' 'c'] [")


def test_the_numbers_in_the_readme_are_those_of_the_committed_results() -> None:
    check = [sys.executable, ROOT / "benchmarks" / "readme.py", "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_has_two_commands_that_make_their_own_environment() -> None:
    commands = re.findall(r"```console\n(python3 .*)\n```", README)
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install ") for command in commands)
