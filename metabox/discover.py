"""Finds learners, samplers and recipes by walking the package: a new one is one new file, and no list.

Reads the sources instead of importing them, so that listing takes milliseconds; torch alone takes a second.
"""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Found:
    """A class in the package: its name, the module it lives in, and its docstring's first line."""

    name: str
    module: str
    summary: str

    def load(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)


@lru_cache
def _classes() -> list[tuple[Found, set[str], bool]]:
    """Every class, the names of its bases, and whether it has abstract methods of its own."""
    classes = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                summary = (ast.get_docstring(node) or "").partition("\n")[0]
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                abstract = any(
                    isinstance(item, ast.FunctionDef)
                    and any("abstractmethod" in ast.unparse(mark) for mark in item.decorator_list)
                    for item in node.body
                )
                classes.append((Found(node.name, module, summary), bases, abstract))
    return classes


def subclasses(base: str) -> list[Found]:
    """The concrete public classes below the class named `base`, by name."""
    known = {base}
    found: dict[str, tuple[Found, bool]] = {}
    while True:
        more = {f.name: (f, abstract) for f, bases, abstract in _classes() if bases & known and f.name not in known}
        if not more:
            break
        known |= set(more)
        found |= more
    return sorted(
        (f for f, abstract in found.values() if not abstract and not f.name.startswith("_")), key=lambda f: f.name
    )


def recipes() -> dict[str, Path]:
    """The recipes of the package, name to file."""
    return {path.stem: path for path in sorted((PACKAGE / "recipes").glob("*.yaml"))}


def lazy(package: str, bases: tuple[str, ...]) -> Any:
    """A module's `__getattr__` that imports the classes below `bases` when they are first asked for."""

    def __getattr__(name: str) -> Any:
        for base in bases:
            for found in subclasses(base):
                if found.name == name:
                    return found.load()
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__
