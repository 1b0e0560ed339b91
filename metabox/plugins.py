"""Plugins: the user's own modules, whose classes recipes may then name.

A plugin is named on the command line (`--plugins`) or in a call (`load_run`) by a user who trusts its code: it is
imported. Nothing that may be untrusted (a recipe, a `--config` file, a run) and nothing inherited (the environment) can
name one.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

OPTION = "--plugins"
HELP = "your own code, which is imported so that recipes may name its classes."


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin: the name of its module, and the names of its submodules that could not be imported."""

    name: str
    failed: tuple[str, ...] = ()


_loaded: ContextVar[tuple[Plugin, ...]] = ContextVar("plugins", default=())


@contextmanager
def allowed(names: Sequence[str]) -> Iterator[None]:
    """Import plugins; until the block ends, recipes may name their classes too.

    Args:
        names: modules that can be imported (`mypackage`), or Python files (`path/to/learner.py`), which become modules
            of the file's name. A package includes all its modules.

    Raises:
        ValueError: if a plugin cannot be imported, or a file has the name of another module.
    """
    token = _loaded.set((*_loaded.get(), *(_load(name) for name in names)))
    try:
        yield
    finally:
        _loaded.reset(token)


def loaded() -> tuple[Plugin, ...]:
    """The plugins that are loaded in this context."""
    return _loaded.get()


def split_arguments(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split command-line arguments into the names of plugins and all other arguments.

    `--plugins` may come anywhere and more than once, with names separated by commas.

    Raises:
        ValueError: if no name follows it.
    """
    names, rest, words = [], [], iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option != OPTION:
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        given = [value] if Path(value).is_file() else value.split(",")  # a path may have a comma
        if value.startswith("--") or not all(given):
            raise ValueError(f"expected {OPTION} MODULE or FILE.py, or several with commas between, got {value!r}")
        names += given
    return names, rest


def as_arguments() -> list[str]:
    """The loaded plugins as command-line arguments for another process; files by their absolute paths."""
    return [word for plugin in loaded() for word in (OPTION, _word(plugin))]


def classes() -> Iterator[tuple[str, type]]:
    """The classes that the loaded plugins define, under every path that leads to them."""
    for plugin in loaded():
        inside = [name for name in sys.modules if f"{name}.".startswith(f"{plugin.name}.")]
        for module in inside:
            for name, value in list(vars(sys.modules[module]).items()):
                if inspect.isclass(value) and value.__module__ in inside:
                    yield f"{module}.{name}", value


def _word(plugin: Plugin) -> str:
    """The argument that loads the plugin in any working directory: a file, unless the module is in a package."""
    file = getattr(sys.modules[plugin.name], "__file__", None)
    return str(Path(file).absolute()) if file and "." not in plugin.name else plugin.name


def _load(name: str) -> Plugin:
    try:
        module = _from_file(Path(name)) if name.endswith(".py") else _by_name(name)
    except ValueError:
        raise
    except (Exception, SystemExit) as error:
        raise _bad(name, error) from error
    failed: list[str] = []
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"{module.__name__}.", onerror=failed.append):
        if found.name.endswith("__main__"):
            continue  # importing it would run it
        try:
            importlib.import_module(found.name)
        except (Exception, SystemExit):  # an error only if a recipe names one of its classes
            failed.append(found.name)
    return Plugin(module.__name__, tuple(failed))


def _bad(name: str, error: BaseException) -> ValueError:
    return ValueError(f"expected a plugin that can be imported, got {name}, which fails: {_described(error)}")


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _by_name(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"expected a plugin as MODULE or FILE.py, got {name!r}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # the module exists, but something that it imports does not
        file = Path(f"{name.replace('.', '/')}.py")
        mend = (
            f"name its file: {OPTION} {file}" if file.is_file() else f"install it, or name its file: {OPTION} FILE.py"
        )
        raise ValueError(f"expected a plugin that can be imported, got {name!r}, not found; {mend}") from error


def _from_file(path: Path) -> ModuleType:
    """The module of a file, registered under the file's name (for an `__init__.py`, under its package's name)."""
    path = Path(os.path.expanduser(path)).absolute()
    name = path.parent.name if path.name == "__init__.py" else path.stem
    if not path.is_file() or not name.isidentifier():
        raise ValueError(f"expected a plugin as a Python file that can be imported under its name, got {path}")
    known = sys.modules.get(name) or importlib.util.find_spec(name)
    if known is not None:
        file = getattr(known, "__file__", None) or getattr(known, "origin", None)
        if not file or not Path(file).is_file() or not path.samefile(file):
            raise ValueError(f"expected a plugin whose name no other module has, got {path}: {name} is {file or known}")
        return importlib.import_module(name)
    inside = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=inside)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
