"""Arguments are checked against type hints, with the ranges that `metabox.ranges` declares in them.

`metabox.config.Configured` does this for every constructor, before its body runs; `checked` for a function,
`check_fields` for a dataclass. Whole numbers, numbers, strings, truth values, literals, classes of this package, and
unions, tuples and lists of these are understood; any other hint is not checked.
"""

from __future__ import annotations

import collections.abc
import contextlib
import difflib
import functools
import inspect
import math
import numbers
import os
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from torch import Tensor

from metabox.ranges import ASCENDING, Within

Function = TypeVar("Function", bound=Callable[..., Any])

LARGEST = 2**63 - 1


class _Refused(Exception):
    """A value that a hint does not allow, with a way to mend it."""

    def __init__(self, mend: str = "") -> None:
        self.mend = mend


def checked(function: Function) -> Function:
    """Check a function's arguments against its type hints before it runs.

    Raises:
        ValueError: by the decorated function, if an argument does not match its hint.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # which raises Python's own message
        check_arguments(function, bound)
        return function(*bound.args, **bound.kwargs)

    return typing.cast(Function, checking)


def check_arguments(function: Callable[..., Any], bound: inspect.BoundArguments) -> None:
    """Check the arguments of a call; NumPy's numbers become Python's, and lists become tuples if the hint is a tuple.

    Raises:
        ValueError: if an argument does not match its type hint; defaults are not checked.
    """
    known = hints(function)
    for name, value in bound.arguments.items():
        if (hint := known.get(name)) is None:
            continue
        parameter = bound.signature.parameters[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            bound.arguments[name] = tuple(check(name, part, hint) for part in value)
        elif parameter.kind is parameter.VAR_KEYWORD:
            bound.arguments[name] = {key: check(key, part, hint) for key, part in value.items()}
        elif value is not parameter.default:
            bound.arguments[name] = check(name, value, hint)


def check_fields(made: Any) -> None:
    """Check the fields of a dataclass, in its `__post_init__`, as `check_arguments` does.

    Raises:
        ValueError: if a field does not match its type hint.
    """
    cls: Any = type(made)
    for name, default, hint in _fields(cls):
        value = getattr(made, name)
        if value is not default and (taken := check(name, value, hint)) is not value:
            object.__setattr__(made, name, taken)


@functools.cache
def _fields(cls: Any) -> list[tuple[str, Any, Any]]:
    known = hints(cls)
    return [(name, field.default, known[name]) for name, field in cls.__dataclass_fields__.items() if name in known]


def check(name: str, value: Any, hint: Any) -> Any:
    """A value as its hint asks: NumPy's numbers become Python's, and lists become tuples if the hint is a tuple.

    Raises:
        ValueError: if the value does not match the hint.
    """
    try:
        return _reader(hint)(value)
    except _Refused as refused:
        mend = f"; {refused.mend}" if refused.mend else ""
        raise ValueError(f"expected {name} as {describe(hint)}, got {shown(value)}{mend}") from None


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


def shown(value: Any) -> str:
    """A value for an error message: one line, shortened."""
    if isinstance(value, Tensor):
        return f"a tensor {kind_of(value)}"
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {list(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = " ".join(_SHORT.repr(value).split())
    return text if len(text) <= 2 * _SHORT.maxstring else f"{text[: 2 * _SHORT.maxstring]}..."


def kind_of(value: Tensor) -> str:
    """Type and shape of a tensor, for an error message."""
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


def describe(hint: Any, many: bool = False) -> str:
    """A type hint in words."""
    base, marks = _parts(hint)
    origin, args = typing.get_origin(base), typing.get_args(base)
    bounds = next((str(mark) for mark in marks if isinstance(mark, Within)), "")
    if base in _NOUNS:
        one, several = _NOUNS[base]
        return (several if many else one) + bounds
    if origin is Literal:
        return f"one of {', '.join(map(repr, args))}" if len(args) > 1 else repr(args[0])
    if _is_union(base):
        *firsts, last = (part for part in args if part is not type(None))
        them = firsts and _parts(last)[1] == (ASCENDING,) and typing.get_args(_parts(last)[0])[0] == firsts[-1]
        words = [describe(part, many) for part in firsts] + ["a range [low, high] of them" if them else describe(last)]
        return " or ".join(words + ["None"] * (type(None) in args))
    if origin is tuple and args[-1:] != (...,):
        if ASCENDING in marks:
            return f"a range [low, high] of {describe(args[0], many=True)}"
        if len(set(args)) == 1:
            return f"{'groups of ' * many}{len(args)} {describe(args[0], many=True)}"
        return f"({', '.join(map(describe, args))})"
    if origin in _LISTS:
        return f"a list of {describe(args[0], many=True) if args else 'values'}"
    if origin in _MAPPINGS:
        return "a dictionary"
    if origin is type or base is type:
        return f"a class below {_name(args[0])}" if args else "a class"
    if origin is collections.abc.Callable:
        return "a class or function that makes one" if _name(args[-1] if args else None) else "a function"
    name = _name(base) or str(base)
    return f"{name}s" if many else f"{'an' if name[:1] in tuple('AEIO') else 'a'} {name}"


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", "")


_NOUNS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "True or False"),
    str: ("a string", "strings"),
    type(None): ("None", "None"),
}
_LISTS: tuple[Any, ...] = (list, tuple, collections.abc.Sequence)
_MAPPINGS: tuple[Any, ...] = (dict, collections.abc.Mapping)


def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A hint without its annotations, and the annotations."""
    if typing.get_origin(hint) is Annotated:
        return hint.__origin__, hint.__metadata__
    return hint, ()


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


@functools.cache
def _reader(hint: Any) -> Callable[[Any], Any]:
    """The function that converts a value to its hint or raises `_Refused`; cached, since every `Place` is checked."""
    base, marks = _parts(hint)
    origin, args = typing.get_origin(base), typing.get_args(base)
    if base in (int, float):
        bounds = next((mark for mark in marks if isinstance(mark, Within)), Within())
        return functools.partial(_whole if base is int else _real, bounds)
    if base is str:
        return _string
    if base in (bool, type(None), None):
        return functools.partial(_instance, bool if base is bool else type(None))
    if _is_union(base):
        return functools.partial(_any_of, [_reader(arg) for arg in args])
    if origin is Literal:
        return functools.partial(_literal, args)
    if origin is tuple and args and args[-1] is not ...:
        return functools.partial(_tuple, [_reader(arg) for arg in args], ASCENDING in marks)
    if origin in _LISTS or base in _LISTS:
        return functools.partial(_several, origin or base, _reader(args[0]) if args else _anything)
    if origin in _MAPPINGS or base in _MAPPINGS:
        return functools.partial(_instance, Mapping)
    if origin is collections.abc.Callable:
        return _callable
    if origin is type or base is type:
        return functools.partial(_class, tuple(arg for arg in args if isinstance(arg, type)) or object)
    return functools.partial(_instance, base) if _is_ours(base) else _anything


def _anything(value: Any) -> Any:
    return value


def _instance(kind: Any, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, kind):
        raise _Refused(f"make one: {_name(value)}(...)" if isinstance(value, type) and issubclass(value, kind) else "")
    return value


def _callable(value: Any) -> Any:
    if not callable(value):
        raise _Refused
    return value


def _class(kinds: Any, value: Any) -> Any:
    if not isinstance(value, type) or not issubclass(value, kinds):
        raise _Refused
    return value


def _literal(choices: tuple[Any, ...], value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return value
    words = [choice for choice in choices if isinstance(choice, str)]
    near = difflib.get_close_matches(value, words, 1) if isinstance(value, str) else []
    raise _Refused(f"did you mean {near[0]!r}?" if near else "")


def _whole(bounds: Within, value: Any) -> int:
    number: int = value
    if type(value) is not int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise _Refused(_mend_of_number(value))
        number = int(value)
    if not -LARGEST <= number <= LARGEST:
        raise _Refused("it has more than 64 bits")
    if number not in bounds:
        raise _Refused
    return number


def _real(bounds: Within, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (float, np.floating, numbers.Integral)):
        raise _Refused(_mend_of_number(value))
    try:
        number = float(value)
    except OverflowError:
        raise _Refused from None
    if number not in bounds or math.isnan(number) or (math.isinf(number) and not bounds.infinite):
        raise _Refused
    return value if type(value) is float else number


def _mend_of_number(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return "use .item()"
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return f"use {int(value)}"
    return f"use {value.strip()}, without quotes" if isinstance(value, str) and value.strip().isdecimal() else ""


def _string(value: Any) -> str:
    taken = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(taken, str):
        raise _Refused
    return taken


def _any_of(readers: list[Callable[[Any], Any]], value: Any) -> Any:
    mends = []
    for read in readers:
        try:
            return read(value)
        except _Refused as refused:
            mends.append(refused.mend)
    raise _Refused(next(filter(None, mends), ""))


def _tuple(readers: list[Callable[[Any], Any]], ascending: bool, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or len(value) != len(readers):
        raise _Refused("use .tolist()" if isinstance(value, (Tensor, np.ndarray)) else "")
    taken = tuple(read(part) for read, part in zip(readers, value, strict=True))
    if ascending and not taken[0] <= taken[1]:
        raise _Refused("the lower one comes first")
    return taken


def _several(kind: Any, read: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim == 1 and kind is collections.abc.Sequence:
        _several(kind, read, value.tolist())
        return value
    if not isinstance(value, (list, tuple)):
        if kind is collections.abc.Sequence and isinstance(value, kind) and not isinstance(value, (str, bytes)):
            return value
        raise _Refused("use .tolist()" if isinstance(value, (Tensor, np.ndarray)) else "")
    taken = [read(part) for part in value]
    if kind is tuple:
        return tuple(taken)
    return value if all(a is b for a, b in zip(taken, value, strict=True)) else type(value)(taken)


def _is_ours(hint: Any) -> bool:
    """Whether it is a class of this package or derives from one; any object may satisfy a protocol."""
    if not isinstance(hint, type) or getattr(hint, "_is_protocol", False):
        return False
    return any(base.__module__.partition(".")[0] == __package__ for base in hint.__mro__)
