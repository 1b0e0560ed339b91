"""Arguments are checked against type hints, with the ranges that `metabox.ranges` declares in them.

`metabox.config.Configured` does this for every constructor, before its body runs; `checked` for a function,
`check_fields` for a dataclass. Whole numbers, numbers, strings, truth values, literals, classes of this package, and
unions, tuples and lists of these are understood; any other hint is not checked.
"""

from __future__ import annotations

import collections.abc
import difflib
import functools
import inspect
import math
import numbers
import os
import reprlib
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import numpy as np
from torch import Tensor

from metabox.hints import LISTS, MAPPINGS, describe, hints, is_union, parts_of
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


@functools.cache
def _reader(hint: Any) -> Callable[[Any], Any]:
    """The function that converts a value to its hint or raises `_Refused`; cached, since every `Place` is checked."""
    base, marks = parts_of(hint)
    origin, args = typing.get_origin(base), typing.get_args(base)
    if base in (int, float):
        bounds = next((mark for mark in marks if isinstance(mark, Within)), Within())
        return functools.partial(_whole if base is int else _real, bounds)
    if base is str:
        return _string
    if base in (bool, type(None), None):
        return functools.partial(_instance, bool if base is bool else type(None))
    if is_union(base):
        return functools.partial(_any_of, [_reader(arg) for arg in args])
    if origin is Literal:
        return functools.partial(_literal, args)
    if origin is tuple and args and args[-1] is not ...:
        return functools.partial(_tuple, [_reader(arg) for arg in args], ASCENDING in marks)
    if origin in LISTS or base in LISTS:
        return functools.partial(_several, origin or base, _reader(args[0]) if args else _anything)
    if origin in MAPPINGS or base in MAPPINGS:
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
        raise _Refused(
            f"make one: {value.__name__}(...)" if isinstance(value, type) and issubclass(value, kind) else ""
        )
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
