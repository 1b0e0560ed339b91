"""The files around the package: distributions are whole, and what contributors are told to run is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "docs", "metabox", "tests")
LEFT_OUT = ("__pycache__", "_build", "methods", "reference", "*.egg-info", ".*_cache")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_distributions_hold_the_package_and_that_of_the_source_its_tests_docs_and_benchmarks(
    tmp_path: Path,
) -> None:
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.partition(".")[0]) < 77:
        pytest.skip("pyproject.toml asks for setuptools 77")
    copy = tmp_path / "copy"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    build = "import sys; from setuptools import build_meta as b; to = sys.argv[1]; b.build_sdist(to); b.build_wheel(to)"
    done = subprocess.run(
        [sys.executable, "-c", build, tmp_path], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {path.relative_to(copy).as_posix() for folder in FOLDERS for path in (copy / folder).rglob("*.*")}
    wanted |= {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "pyproject.toml", "setup.cfg"}
    assert not {name for name in wanted if (copy / name).is_file()} - held
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archived:
        held = set(archived.namelist())
    wanted = {name for name in wanted if name.startswith("metabox/") and (copy / name).is_file()}
    assert {"metabox/py.typed", "metabox/learners/__init__.pyi"} <= wanted
    assert not wanted - held


def test_every_tool_that_contributors_are_told_to_run_is_in_the_environment_that_they_are_told_to_make() -> None:
    dev = set(re.findall(r'"([a-z-]+)', re.search(r"\ndev = \[(.*?)\n\]", read("pyproject.toml"), re.DOTALL)[1]))
    hooks = [hook for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}  # nothing is fetched
    text = read("CONTRIBUTING.md") + "".join(hook["entry"] for hook in hooks)
    tools = set(re.findall(r"\.venv/bin/([\w-]+)", text))
    assert {"coverage", "mypy", "ruff"} <= tools
    assert tools - {"python", "pip", "pre-commit", "sphinx-build"} <= dev
    assert "sphinx" in dev
    install = r"python3 -m venv \.venv && \.venv/bin/pip install -q -e \"\.\[dev\]\""
    assert re.search(install, read("CONTRIBUTING.md"))
    assert re.search(install, read("README.md"))


def test_the_citation_has_what_its_format_asks_for() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title"} <= citation.keys()
    assert all(author["name"] for author in citation["authors"])
