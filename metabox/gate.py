"""The gate for recipes: which classes they may name, and how large they may be. Nothing else is imported or called.

A recipe may be untrusted. It may name the classes that `discover.nameable` finds in the source of metabox, and those
that plugins define (`metabox.plugins`), by exact paths, and each only where a subclass of its base is expected. That is
decided before anything is imported.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings
from jsonargparse._common import parsing_settings  # there is no public way to put the settings back

from metabox import discover, plugins

MAX_BYTES = 1_000_000
MAX_NODES = 10_000
MAX_DEPTH = 40
MAX_SCALAR = 4_000
MAX_INTEGER = 2**63
COMMAND_LINE_ONLY = ("config", "data_root", "out", "plugins")
"""Options that a recipe must not set: paths that are read or written, and whose code is trusted."""

PARSER_KEYS = ("config", "__default_config__")
"""Keys in which the parser keeps the files that it has read."""

NAME = re.compile(r"\$?[A-Za-z][\w-]*(\.[A-Za-z][\w-]*)*\+?|\d+")

_lock = threading.RLock()  # the settings of jsonargparse are global


def paths() -> dict[str, str]:
    """Every path by which a recipe may name a class, with the name of the class."""
    found: dict[str, str] = {}
    for known in discover.nameable():
        parts = known.module.split(".")  # a class of metabox.tasks.images.omniglot is in metabox.tasks too
        found |= {".".join((*parts[:n], known.name)): known.name for n in range(1, len(parts) + 1)}
    for path, plugin_class in plugins.classes():
        found |= {path: plugin_class.__name__}
        found |= {f"{plugin_class.__module__}.{plugin_class.__qualname__}": plugin_class.__name__}
    return found


@contextmanager
def closed() -> Iterator[None]:
    """Inside, jsonargparse imports only what is in `paths`; afterwards its settings are restored."""
    with _lock:
        settings, search = dict(parsing_settings), sys.path[:]
        try:
            sys.path[:] = map(os.path.abspath, search)  # the parser enters the recipe's folder: import nothing there
            parsing_settings["import_path_verdicts"] = {}
            set_parsing_settings(
                import_path_denylist=["*"],
                import_path_allowlist=[path for path in paths() if all(map(str.isidentifier, path.split(".")))],
                instantiate_subclass_spec_in_any=False,
            )
            yield
        finally:
            parsing_settings.update(settings)
            sys.path[:] = search


def check_named(config: Any) -> None:
    """Refuse parsed values that are neither plain values nor classes that may be named.

    jsonargparse accepts functions by what they return, and an allowed path also gives access to a class's attributes.

    Raises:
        ValueError: for such a value; the message says where it is.
    """
    _check_named(config, "", paths())


def _check_named(config: Any, where: str, known: Mapping[str, str]) -> None:
    if isinstance(config, (dict, Namespace)):
        content = vars(config) if isinstance(config, Namespace) else config
        if "class_path" in content and content["class_path"] not in known:
            raise ValueError(unknown_class(content["class_path"], f" for {where}"))
        for name, value in content.items():
            if name not in PARSER_KEYS:
                _check_named(value, f"{where}.{name}".removeprefix(".").replace(".init_args", ""), known)
    elif isinstance(config, (list, tuple, set)):
        for value in config:
            _check_named(value, where, known)
    elif inspect.isclass(config):
        _check_named({"class_path": f"{config.__module__}.{config.__qualname__}"}, where, known)
    elif not isinstance(config, (type(None), bool, int, float, str)):
        name = f"{config.__module__}.{config.__qualname__}" if inspect.isroutine(config) else repr(config)
        raise ValueError(f"expected {where} as a plain value or a class, got {name}, which is neither")
    elif isinstance(config, int):
        _check_integer(config, where)


def check_yaml(text: str) -> None:
    """Refuse YAML that is too large, counted as if every alias were written out.

    Raises:
        ValueError: if it is too large.
        yaml.YAMLError: if the text is not YAML.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"expected YAML of at most {MAX_BYTES:,} characters, got {len(text):,}")
    nodes, sizes, begun = 0, {}, []  # type: ignore[var-annotated]
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"expected aliases of anchors defined before them, got *{event.anchor}")
            nodes += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            begun.append((event.anchor, nodes))
            nodes += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = begun.pop()
            sizes[anchor] = nodes - before
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor] = 1
            nodes += 1
            if event.implicit[0] and len(event.value) > MAX_SCALAR:  # parsing it as a number would take long
                raise ValueError(
                    f"expected values of at most {MAX_SCALAR:,} characters without quotes, got a longer one"
                )
        if nodes > MAX_NODES or len(begun) > MAX_DEPTH:
            raise ValueError(
                f"expected YAML of at most {MAX_NODES:,} values, aliases written out, and {MAX_DEPTH} levels, got more"
            )


def load_yaml(text: str) -> Any:
    """YAML as jsonargparse reads it, within the limits."""
    check_yaml(text)
    return get_loader("yaml")(text)


set_loader("recipe", load_yaml, (yaml.YAMLError, ValueError))


def read(path: str) -> dict[str, Any]:
    """The content of a recipe.

    Raises:
        ValueError: if the file is not a recipe, sets an option of the command line, or names a class that it may not.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            content = load_yaml(stream.read(MAX_BYTES + 1))
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"expected a recipe in {path}, got something else: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected a recipe in {path}, options and values as YAML, got {type(content).__name__}")
    for key in content:
        name = re.split(r"[.+]", str(key))[0].replace("-", "_")
        if name in COMMAND_LINE_ONLY:
            raise ValueError(
                f"expected {name} on the command line only, as --{name.replace('_', '-')}, got it in {path}; remove it"
            )
    if isinstance(content.get("outer"), str):  # the parser would open a file of that name
        raise ValueError(f"expected outer as options and values in {path}, got {content['outer']!r}")
    check_content(content, path, paths())
    return content


def layers(path: Path) -> list[Path]:
    """The files that make a recipe, in the order in which they are read: the base of its folder, if any, and itself.

    Raises:
        ValueError: as for `read`, for either file.
    """
    files = [file for file in (discover.base_of(path), path) if file]
    for file in files:
        read(str(file))
    return files


def check_content(content: Any, where: str, known: Mapping[str, str]) -> None:
    """Refuse values read from a file that name a class which is not in `known`, or that cost too much to parse.

    Raises:
        ValueError: for such a value; the message says where it is.
    """
    if isinstance(content, (dict, list)):
        for name, value in (
            content.items() if isinstance(content, dict) else ((str(i), v) for i, v in enumerate(content))
        ):
            if not isinstance(name, str) or not NAME.fullmatch(name):  # `__path__` is a key of the parser itself
                raise ValueError(f"expected names of options in {where}, got {str(name)[:100]!r}")
            if name.endswith("class_path") and isinstance(value, str) and "." in value and value not in known:
                raise ValueError(unknown_class(value, f" in {where}"))
            check_content(value, where, known)
    elif isinstance(content, str):  # which the parser may parse as YAML again
        with suppress(yaml.YAMLError):
            check_yaml(content)
    elif isinstance(content, int):
        _check_integer(content, f"numbers in {where}")


def _check_integer(value: int, where: str) -> None:
    if abs(value) >= MAX_INTEGER:
        raise ValueError(f"expected {where} below 2**63, got one of {value.bit_length()} bits")


def unknown_class(path: str, where: str = "") -> str:
    """The error message for a path that is not in `paths`."""
    known, (module, _, name) = paths(), path.rpartition(".")
    got = f"got {path!r}{where}"
    if any(f"{path}.".startswith(f"{name}.") for name in ("metabox", *(plugin.name for plugin in plugins.loaded()))):
        failed = [name for plugin in plugins.loaded() for name in plugin.failed if f"{path}.".startswith(f"{name}.")]
        near = difflib.get_close_matches(name, set(known.values()), n=1, cutoff=0.75)
        why = f"{failed[0]} cannot be imported" if failed else "there is no such class"
        return f"expected a class that a recipe may name, {got}: {why}{f'; did you mean {near[0]}?' if near else ''}"
    if module.partition(".")[0] in sys.stdlib_module_names:
        return f"expected a class of metabox or of a plugin, {got}"
    return (
        f"expected a class of metabox or of a plugin, {got}; if it is your own, and you trust it, add "
        f"{plugins.OPTION} {module}, or {plugins.OPTION} FILE.py"
    )


@contextmanager
def building(what: str) -> Iterator[None]:
    """Turn other errors of constructors into ValueErrors: a constructor did not expect the value that it got.

    Raises:
        ValueError: with the line that failed, for the author of the constructor.
    """
    try:
        yield
    except (TypeError, ArithmeticError, LookupError, AttributeError, AssertionError, RuntimeError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ValueError(
            f"expected options that {what} can be built with, got {type(error).__name__}: {error} "
            f"({Path(last.filename).name}, line {last.lineno})"
        ) from error


class RecipeFile(ActionConfigFile):
    """`--config FILE`: a recipe that overrides the first."""

    @staticmethod
    def apply_config(parser: ArgumentParser, cfg: Namespace, dest: str, value: str) -> None:
        from metabox.recipe import find

        for file in layers(find(value)):
            ActionConfigFile.apply_config(parser, cfg, dest, str(file))


class RecipeParser(ArgumentParser):
    """A parser that always applies the gate."""

    def parse_args(self, args: Sequence[str] | None = None, *_: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        with closed():
            config = super().parse_args(args, **kwargs | {"env": False})
            check_named(config)
            return config

    def instantiate(self, *args: Any, **kwargs: Any) -> Any:
        with closed(), building("the classes of the recipe"):
            return super().instantiate(*args, **kwargs)

    def dump(self, *args: Any, **kwargs: Any) -> str:
        with closed():
            text: str = super().dump(*args, **kwargs)
        return text
