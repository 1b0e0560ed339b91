"""What editors and type checkers read of the lazy packages is what these offer."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from metabox import discover, stubs

PACKAGES = sorted(discover.lazy_packages())


def test_the_committed_stubs_are_those_that_the_command_writes() -> None:
    found = {path: path.read_text(encoding="utf-8") for path in discover.PACKAGE.rglob("*.pyi")}
    wanted = stubs.stubs()
    stale = {path.relative_to(discover.PACKAGE) for path, text in wanted.items() if found.get(path) != text}
    assert not stale, f"run `python -m metabox.stubs` and commit {', '.join(map(str, sorted(stale)))}"
    assert found.keys() == wanted.keys()


def test_every_package_that_offers_names_from_elsewhere_has_a_stub() -> None:
    assert {"metabox", "metabox.learners", "metabox.targets", "metabox.tasks.images"} <= set(PACKAGES)
    folders = {path.parent for path in discover.PACKAGE.rglob("__init__.py") if "import" in path.read_text("utf-8")}
    assert folders == {path.parent for path in stubs.stubs()}


def defined(file: Path) -> set[str]:
    """The classes, functions and constants that a module defines itself."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_a_lazy_package_has_every_name_of_its_stub(package: str) -> None:
    public = discover.lazy_packages()[package]
    names = []
    for node in ast.parse(stubs.stub(package, public)).body:
        if isinstance(node, ast.ImportFrom):  # anything else is not a re-export
            ((alias,), home) = node.names, importlib.import_module(node.module or "")
            assert alias.asname == alias.name
            assert getattr(importlib.import_module(package), alias.name) is vars(home)[alias.name]
            assert alias.name in defined(Path(str(home.__file__)))
            names.append(alias.name)
        else:
            assert ast.unparse(node) == "__version__: str"
    assert dir(importlib.import_module(package)) == sorted(names)


def test_the_command_writes_stubs_that_are_missing_or_stale_and_leaves_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh, stale, missing = (tmp_path / name for name in ("fresh.pyi", "stale.pyi", "missing.pyi"))
    monkeypatch.setattr(stubs, "stubs", lambda: dict.fromkeys((fresh, stale, missing), "text\n"))
    fresh.write_text("text\n")
    stale.write_text("other\n")
    stubs.main()
    assert [path.read_text() for path in (fresh, stale, missing)] == ["text\n"] * 3
    assert capsys.readouterr().err.splitlines() == [f"{stale} written", f"{missing} written"]
