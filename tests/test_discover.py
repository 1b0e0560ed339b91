"""The walk of the package: what is there is found, without importing it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from metabox import discover, stubs

PACKAGE = {
    "__init__.py": "",
    "base.py": """
        from abc import ABC, abstractmethod
        raise RuntimeError("imported")
        class Learner(ABC):
            @abstractmethod
            def adapt(self): ...
    """,
    "learners/__init__.py": "",
    "learners/new.py": '''
        import made_up_walk.base as base
        class Half(base.Learner):
            """Abstract still."""
            @property
            @abstractmethod
            def width(self): ...
        class New(base.Learner):
            """A new learner.

            More of it.
            """
        class _Hidden(Learner): ...
        class Zed(Half): ...
        class Unrelated: ...
        def factory():
            class Inner(Learner): ...
    ''',
    "learners/deep/er.py": "class Deep(New): ...",
    "notes.txt": "class Text(Learner): ...",
}


def forget() -> None:
    for walk in (discover._modules, discover._classes, discover._below, discover.nameable):
        walk.cache_clear()


def write_package(root: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A package at `root` in metabox's place for one test."""
    for name, text in files.items():
        lines = text.strip("\n").splitlines()
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(line[indent:] for line in lines))
    forget()
    monkeypatch.setattr(discover, "PACKAGE", root)


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> object:
    """Leaves no made-up class in the cache of the walk, and no made-up module behind."""
    yield
    monkeypatch.undo()
    forget()
    for name in [name for name in sys.modules if name.startswith("made_up_walk")]:
        del sys.modules[name]


@pytest.mark.usefixtures("walked")
def test_a_learner_in_a_new_file_is_found_without_importing_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path / "made_up_walk", PACKAGE, monkeypatch)
    found = discover.subclasses("Learner")
    assert [(f.name, f.module, f.summary) for f in found] == [
        ("Deep", "made_up_walk.learners.deep.er", ""),
        ("New", "made_up_walk.learners.new", "A new learner."),
        ("Zed", "made_up_walk.learners.new", ""),
    ]
    assert [f.name for f in discover.subclasses("Half")] == ["Zed"]
    assert discover.subclasses("Nothing") == []


@pytest.mark.usefixtures("walked")
def test_what_was_found_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"__init__.py": "class Learner: ...", "one.py": "from made_up_walk import Learner\nclass One(Learner): ..."}
    write_package(tmp_path / "made_up_walk", files, monkeypatch)
    monkeypatch.syspath_prepend(str(tmp_path))
    (one,) = discover.subclasses("Learner")
    assert one.load().__name__ == "One"


@pytest.mark.usefixtures("walked")
def test_a_lazy_package_offers_named_things_and_what_is_below_a_base_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "__init__.py": "class Learner: ...",
        "learners/__init__.py": """
            from metabox.discover import lazy
            __getattr__, __dir__ = lazy(__name__, "Learner", "tools.helper")
        """,
        "learners/one.py": "from made_up_walk import Learner\nclass One(Learner): ...",
        "learners/tools.py": "def helper(): ...",
        "elsewhere.py": "class Two(Learner): ...",
    }
    write_package(tmp_path / "made_up_walk", files, monkeypatch)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert discover.lazy_packages() == {"made_up_walk.learners": ("Learner", "tools.helper")}
    learners = importlib.import_module("made_up_walk.learners")
    assert dir(learners) == ["One", "helper"]
    assert learners.One.__module__ == "made_up_walk.learners.one"
    assert learners.helper.__module__ == "made_up_walk.learners.tools"
    with pytest.raises(AttributeError, match=r"module 'made_up_walk\.learners' has no attribute 'Two'"):
        _ = learners.Two
    assert stubs.stub("made_up_walk.learners", ("Learner", "tools.helper")).splitlines()[2:] == [
        "from made_up_walk.learners.one import One as One",
        "from made_up_walk.learners.tools import helper as helper",
    ]


@pytest.mark.usefixtures("walked")
def test_a_learner_below_a_private_base_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"base.py": "class Learner: ...", "two.py": "class _Base(Learner): ...\nclass Two(_Base): ..."}
    write_package(tmp_path / "made_up_walk", files, monkeypatch)
    assert [f.name for f in discover.subclasses("Learner")] == ["Two"]


def test_recipes_are_the_yaml_files_of_the_package_and_of_its_folders_but_for_bases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discover, "PACKAGE", tmp_path)
    folder = tmp_path / "recipes" / "b" / "c"
    folder.mkdir(parents=True)
    for name in ("_base.yaml", "two.yaml", "notes.txt", "../one.yaml"):
        (folder / name).write_text("# A title, whole.\n# More.\n")
    assert list(discover.recipes().items()) == [("one", folder.parent / "one.yaml"), ("two", folder / "two.yaml")]
    assert discover.title(folder / "two.yaml") == "A title, whole."
    assert discover.base_of(folder / "two.yaml") == folder / "_base.yaml"
    assert discover.base_of(folder.parent / "one.yaml") is None
    assert discover.base_of(tmp_path / "two.yaml") is None
