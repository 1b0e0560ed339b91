"""The README is true: its script runs, its numbers are those of the committed results."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_lines_of_the_readme_print_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(lines.splitlines()) < 10
    exec(compile(lines, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^print\(.*\)  # (.*)$", lines, re.MULTILINE)


def test_the_readme_fits_a_screen_or_two_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 75
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_numbers_in_the_readme_are_those_of_the_committed_results() -> None:
    check = [sys.executable, ROOT / "benchmarks" / "readme.py", "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_has_two_commands_that_make_their_own_environment() -> None:
    commands = re.findall(r"```console\n(python3 .*)\n```", README)
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install ") for command in commands)
