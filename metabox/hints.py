"""Type hints: those of a function or class, taken apart, and in words."""

from __future__ import annotations

import collections.abc
import contextlib
import functools
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from metabox.ranges import ASCENDING, Within


@functools.cache
def hints(owner: Any) -> Mapping[str, Any]:
    """The type hints of a function or class, with their ranges, except those whose names cannot be resolved."""
    if isinstance(owner, type):
        parts = reversed(inspect.getmro(owner))
        sources = [(vars(sys.modules[part.__module__]), vars(part).get("__annotations__", {})) for part in parts]
    else:
        owner = inspect.unwrap(owner)
        sources = [(getattr(owner, "__globals__", {}), getattr(owner, "__annotations__", {}))]
    found: dict[str, Any] = {}
    for names, own in sources:
        for name, hint in own.items():
            found.pop(name, None)
            with contextlib.suppress(NameError, AttributeError, TypeError):  # imported only for type checkers, say
                one = types.SimpleNamespace(__annotations__={name: hint})
                found[name] = typing.get_type_hints(one, globalns=names, include_extras=True)[name]
    found.pop("return", None)
    return found


def describe(hint: Any, many: bool = False) -> str:
    """A type hint in words."""
    base, marks = parts_of(hint)
    origin, args = typing.get_origin(base), typing.get_args(base)
    bounds = next((str(mark) for mark in marks if isinstance(mark, Within)), "")
    if base in _NOUNS:
        one, several = _NOUNS[base]
        return (several if many else one) + bounds
    if origin is Literal:
        return f"one of {', '.join(map(repr, args))}" if len(args) > 1 else repr(args[0])
    if is_union(base):
        *firsts, last = (part for part in args if part is not type(None))
        them = firsts and parts_of(last)[1] == (ASCENDING,) and typing.get_args(parts_of(last)[0])[0] == firsts[-1]
        words = [describe(part, many) for part in firsts] + ["a range [low, high] of them" if them else describe(last)]
        return " or ".join(words + ["None"] * (type(None) in args))
    if origin is tuple and args[-1:] != (...,):
        if ASCENDING in marks:
            return f"a range [low, high] of {describe(args[0], many=True)}"
        if len(set(args)) == 1:
            return f"{'groups of ' * many}{len(args)} {describe(args[0], many=True)}"
        return f"({', '.join(map(describe, args))})"
    if origin in LISTS:
        return f"a list of {describe(args[0], many=True) if args else 'values'}"
    if origin in MAPPINGS:
        return "a dictionary"
    if origin is type or base is type:
        return f"a class below {name_of(args[0])}" if args else "a class"
    if origin is collections.abc.Callable:
        return "a class or function that makes one" if name_of(args[-1] if args else None) else "a function"
    name = name_of(base) or str(base)
    return f"{name}s" if many else f"{'an' if name[:1] in tuple('AEIO') else 'a'} {name}"


def name_of(hint: Any) -> str:
    return getattr(hint, "__name__", "")


_NOUNS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "True or False"),
    str: ("a string", "strings"),
    type(None): ("None", "None"),
}
LISTS: tuple[Any, ...] = (list, tuple, collections.abc.Sequence)
MAPPINGS: tuple[Any, ...] = (dict, collections.abc.Mapping)


def parts_of(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A hint without its annotations, and the annotations."""
    if typing.get_origin(hint) is Annotated:
        return hint.__origin__, hint.__metadata__
    return hint, ()


def is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)
