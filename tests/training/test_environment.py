"""The facts beside a result: where the version is from, and that asking git starts nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import metabox
from metabox.training import environment

ROOT = Path(__file__).parents[2]
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that the package seems to lie in, with one commit."""
    root = tmp_path / "checkout"
    (root / "metabox" / "training").mkdir(parents=True)
    (root / "metabox" / "training" / "environment.py").write_text("")
    (root / ".gitattributes").write_text("*.py filter=own\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "one")
    monkeypatch.setattr(environment, "__file__", str(root / "metabox" / "training" / "environment.py"))
    return root


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


@needs_git
def test_the_commit_and_whether_tracked_files_differ_from_it(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "untracked").touch()
    monkeypatch.setenv("GIT_DIR", str(checkout / "another"))  # as in a hook of another repository
    found = environment.collect_environment()
    monkeypatch.delenv("GIT_DIR")
    assert (found["git_commit"], found["git_dirty"]) == (git(checkout, "rev-parse", "HEAD"), False)
    (checkout / "metabox" / "training" / "environment.py").write_text("changed")
    assert environment.collect_environment()["git_dirty"] is True


@needs_git
def test_what_git_cannot_tell_is_unknown_and_not_clean(checkout: Path) -> None:
    (checkout / ".git" / "index").write_bytes(b"damaged")
    assert environment.collect_environment()["git_dirty"] is None
    shutil.rmtree(checkout / ".git")
    found = environment.collect_environment()
    assert (found["git_commit"], found["git_dirty"]) == (None, None)


@needs_git
@pytest.mark.skipif(os.name == "nt", reason="the commands are for a POSIX shell")
@pytest.mark.parametrize("setting", ["core.fsmonitor", "core.hooksPath", "filter.own.clean", "filter.own.process"])
def test_no_program_that_the_settings_of_a_repository_name_is_started(checkout: Path, setting: str) -> None:
    program = checkout / "post-index-change"  # the hook that `git status` may run
    program.write_text(f"#!/bin/sh\ntouch {checkout}/PWNED\ncat\n")
    program.chmod(0o755)
    git(checkout, "config", setting, str(checkout if setting == "core.hooksPath" else program))
    (checkout / "metabox" / "training" / "environment.py").write_text("")  # of another time, so git must look into it
    os.utime(checkout / "metabox" / "training" / "environment.py", (1, 1))
    assert environment.collect_environment()["git_dirty"] is False
    assert not (checkout / "PWNED").exists()


def test_the_version_is_known_without_a_distribution_of_the_packages_name() -> None:
    script = (
        "import importlib.metadata as m\nreal = m.version\n"
        "m.version = lambda name: real(name) if 'metabox' not in name else 1 / 0\n"
        "from metabox.training.environment import collect_environment\nprint(collect_environment()['metabox'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == metabox.__version__


def test_nobody_is_told_to_install_the_package_of_that_name_on_the_index() -> None:
    files = [ROOT / "README.md", ROOT / "pyproject.toml"]
    for folder in ("metabox", "docs", "benchmarks", "tests"):
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".yaml", ".html")]
    told = re.compile(r"(?:pip|uv|pipx) (?:pip )?install[^\n&`]*?\bmetabox(?!-torch)\b")
    assert len(files) > 100
    assert [path.name for path in files if told.search(path.read_text(encoding="utf-8"))] == []
