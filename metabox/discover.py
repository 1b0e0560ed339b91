"""Finds learners, samplers and recipes by walking the package, so that a new one is one new file.

It reads the sources instead of importing them, so that listing takes milliseconds; importing torch takes a second.
"""

from __future__ import annotations

import ast
import gc
import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
BASE = "_base.yaml"
"""The base file of a folder of recipes in the package, which all of them share."""


@dataclass(frozen=True)
class Found:
    """A class in the package: its name, its module, and the first sentence of its docstring."""

    name: str
    module: str
    summary: str

    def load(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)


@dataclass(frozen=True)
class _Class:
    """A class as in its source: its bases, whether it is abstract, and the names in its constructor's type hints."""

    found: Found
    bases: set[str]
    abstract: bool
    takes: set[str]


def _names(annotation: ast.expr | None) -> set[str]:
    """The names in a type hint, which may be a string; without the metadata of `Annotated`."""
    found, todo = set(), [annotation]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            found.add(node.value)
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Annotated":
            assert isinstance(node.slice, ast.Tuple)
            todo.append(node.slice.elts[0])
        elif node:
            todo.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr))
    return found


def _takes(body: list[ast.stmt], function: str = "__init__") -> set[str]:
    """The names in the type hints of a function's arguments."""
    names: set[str] = set()
    for item in body:
        if isinstance(item, ast.FunctionDef) and item.name == function:
            given = [*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs, item.args.vararg, item.args.kwarg]
            names.update(*(_names(argument.annotation) for argument in given if argument))
    return names


def _fields(body: list[ast.stmt]) -> set[str]:
    """The names in the type hints of a class's fields, which are the arguments of a dataclass."""
    return set().union(*(_names(item.annotation) for item in body if isinstance(item, ast.AnnAssign)))


def _first_sentence(docstring: str) -> str:
    """The text up to the first full stop before a new sentence or the end: not the one of "et al. 2017"."""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return re.split(r"(?<=[.!?])(?<!al\.)(?<!e\.g\.)(?<!i\.e\.) (?=[A-Z`\"(])", paragraph, maxsplit=1)[0]


@dataclass(frozen=True)
class _Module:
    """A module as in its source: its classes, and of its other statements what is asked for here."""

    name: str
    classes: list[_Class]
    functions: dict[str, set[str]]  # the names in the type hints of their arguments
    aliases: dict[str, set[str]]  # the names in what they stand for
    lazy: tuple[str, ...] | None  # the arguments of `lazy` after the first


@lru_cache
def _modules() -> list[_Module]:
    """Every module. Their syntax trees, which are large, are not kept."""
    with without_collection():
        return [_read(path) for path in sorted(PACKAGE.rglob("*.py"))]


def _read(path: Path) -> _Module:
    read = _Module(_module(path), [], {}, {}, None)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.ClassDef():
                read.classes.append(_class(node, read.name))
            case ast.FunctionDef():
                read.functions[node.name] = _takes([node], node.name)
            case ast.Assign(value=ast.Call(func=ast.Name("lazy"), args=[ast.Name("__name__"), *public])):
                read = replace(read, lazy=tuple(ast.literal_eval(entry) for entry in public))
            case ast.Assign():
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
                read.aliases.update({name: _names(node.value) for name in names if name[:1].isupper()})
    return read


def _class(node: ast.ClassDef, module: str) -> _Class:
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    abstract = "TypedDict" in bases or any(  # a TypedDict is a plain dict
        isinstance(item, ast.FunctionDef) and any("abstractmethod" in ast.unparse(mark) for mark in item.decorator_list)
        for item in node.body
    )
    summary = _first_sentence(ast.get_docstring(node) or "")
    return _Class(Found(node.name, module, summary), bases, abstract, _takes(node.body) | _fields(node.body))


@contextmanager
def without_collection() -> Iterator[None]:
    """Pause garbage collection while much is loaded that is no garbage, which it would search again and again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _module(path: Path) -> str:
    """The name of the module in a file of the package."""
    return ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


@lru_cache
def _classes() -> list[_Class]:
    """Every class at the top of a module."""
    return [one for module in _modules() for one in module.classes]


@lru_cache
def _below(base: str) -> tuple[_Class, ...]:
    """The class named `base` and its subclasses."""
    known: set[str] = {base}
    while more := {c.found.name for c in _classes() if c.bases & known} - known:
        known |= more
    return tuple(c for c in _classes() if c.found.name == base or c.bases & known)


def subclasses(base: str) -> list[Found]:
    """The concrete public subclasses of the class named `base`, sorted by name."""
    return sorted((found for found in _public(_below(base)) if found.name != base), key=lambda found: found.name)


def _public(classes: Iterable[_Class]) -> list[Found]:
    return [c.found for c in classes if not c.abstract and not c.found.name.startswith("_")]


@lru_cache
def nameable(start: tuple[str, ...] = ("run", "Claim")) -> list[Found]:
    """The concrete public classes that a recipe may name.

    These are the classes named in `start`, the subclasses of whatever the functions named there take, and those of
    whatever these take in turn: a learner's backbone, for example. All of it is read from type hints.
    """
    aliases = {name: names for module in _modules() for name, names in module.aliases.items()}
    todo = set(start).union(*(module.functions.get(name, set()) for module in _modules() for name in start))
    here = {c.found.name for c in _classes()}
    done: set[str] = set()
    found: dict[str, Found] = {}
    while todo:
        done.add(name := todo.pop())
        classes = _below(name) if name in here else ()  # no recipe names subclasses of `str` or `nn.Module`
        found |= {f"{f.module}.{f.name}": f for f in _public(classes)}
        todo |= set().union(aliases.get(name, set()), *(c.takes for c in classes))
        todo -= done
    return list(found.values())


def recipes() -> dict[str, Path]:
    """The recipes of the package, name to file, sorted by name."""
    found = {path.stem: path for path in (PACKAGE / "recipes").rglob("*.yaml") if path.name != BASE}
    return dict(sorted(found.items()))


def base_of(recipe: Path) -> Path | None:
    """The file that is read before a recipe of the package, if its folder has one; nothing else is inherited.

    A file outside the package has none: the files beside a run's recipe may be untrusted.
    """
    recipe = recipe.resolve()  # for a link to a recipe, the base beside the recipe itself
    base = recipe.with_name(BASE)
    return base if recipe.is_relative_to((PACKAGE / "recipes").resolve()) and base.is_file() else None


def title(recipe: Path) -> str:
    """The title of a recipe: its first line."""
    with recipe.open(encoding="utf-8") as lines:
        return lines.readline().lstrip("# ").rstrip()


def models() -> dict[str, Path]:
    """The trained models of the package, name to file, sorted by name."""
    return {path.stem: path for path in sorted((PACKAGE / "models").glob("*.metabox"))}


def card(model: Path) -> str:
    """The card of a model of the package, from the head of its file."""
    with model.open("rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    text: str = json.loads(head["__metadata__"]["metabox"])["card"]
    return text


def public_names(package: str, public: Iterable[str]) -> dict[str, str]:
    """The public names of a lazy package, name to module, for `public` as in `lazy`."""
    homes = {}
    for entry in public:
        module, dot, name = entry.rpartition(".")
        if dot:
            homes[name] = f"{package}.{module}"
        else:
            inside = (found for found in subclasses(entry) if found.module.startswith(f"{package}."))
            homes |= {found.name: found.module for found in inside}
    return homes


def lazy(package: str, *public: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`, which import its public names on first use.

    Each of `public` is a name with its module in the package, such as `"spec.TaskSpec"`, or the name of a base class,
    such as `"Learner"`, which stands for all its concrete subclasses in the package. `python -m metabox.stubs` writes
    the same names for editors and type checkers.
    """
    named = public_names(package, (entry for entry in public if "." in entry))
    bases = {entry for entry in public if "." not in entry}

    def __getattr__(name: str) -> Any:
        if name in named:
            return getattr(importlib.import_module(named[name]), name)
        folder = PACKAGE.parent.joinpath(*package.split("."))
        for home in _defining(folder, name) if bases else ():  # for one name, syntax trees of all are too much
            found = getattr(importlib.import_module(home), name)
            if bases & {base.__name__ for base in found.__mro__[1:]} and not _is_abstract(found):
                return found
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(named | public_names(package, sorted(bases)))

    return __getattr__, __dir__


def _is_abstract(found: type) -> bool:
    return any(getattr(value, "__isabstractmethod__", False) for value in vars(found).values())


@cache  # jsonargparse asks for each subclass, whenever it reads a default
def _defining(folder: Path, name: str) -> list[str]:
    """The modules in a folder of the package that define a public class of this name."""
    line = re.compile(rf"^class {re.escape(name)}\b", re.MULTILINE)
    files = [] if name.startswith("_") else sorted(folder.rglob("*.py"))
    return [_module(path) for path in files if line.search(path.read_text(encoding="utf-8"))]


def lazy_packages() -> dict[str, tuple[str, ...]]:
    """The lazy packages, with the arguments that they pass to `lazy` after their name."""
    return {module.name: module.lazy for module in _modules() if module.lazy is not None}
