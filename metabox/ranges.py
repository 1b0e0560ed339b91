"""The values that an option can have: declared once, in the signature, and checked for every constructor.

    def __init__(self, width: Count = 64, dropout: BelowOne = 0.1, n_shot: CountOrRange = 1) -> None:

`metabox.config.Configured` checks what its constructors are called with against such hints before their bodies run;
`checked` does so for a function, and `check_fields` for a dataclass. Whole numbers, numbers, strings, literals,
classes of this package, and unions, tuples and lists of these are understood; any other hint is taken for a comment.
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
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from torch import Tensor

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Within:
    """Bounds of a number, for `Annotated[int, Within(least=1)]`.

    Args:
        least: the smallest value.
        most: the largest value.
        above: a value that is smaller than all.
        below: a value that is larger than all.
        infinite: whether a float may be infinite; NaN it never is.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    infinite: bool = False

    def __contains__(self, value: float) -> bool:
        return not (
            math.isnan(value)
            or (math.isinf(value) and not self.infinite)
            or (self.least is not None and value < self.least)
            or (self.most is not None and value > self.most)
            or (self.above is not None and value <= self.above)
            or (self.below is not None and value >= self.below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f" from {self.least} to {self.most}"
        words = (("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below))
        said = " and ".join(f"{word} {value}" for word, value in words if value is not None)
        return f" {'of ' * said.startswith('at')}{said}" if said else ""


ASCENDING = "ascending"
"""Marks a pair whose first number is not larger than the second."""

Whole = Annotated[int, Within()]
Natural = Annotated[int, Within(least=0)]
Count = Annotated[int, Within(least=1)]
TwoOrMore = Annotated[int, Within(least=2)]
Real = Annotated[float, Within()]
NotNegative = Annotated[float, Within(least=0)]
Positive = Annotated[float, Within(above=0)]
Share = Annotated[float, Within(least=0, most=1)]
BelowOne = Annotated[float, Within(least=0, below=1)]
Between = Annotated[tuple[T, T], ASCENDING]
"""A range [low, high], both included: `Between[Count]`."""
Shape = tuple[Count, ...]
"""Of one input, without the axes of tasks and examples."""
NaturalOrRange = Natural | Between[Natural]
CountOrRange = Count | Between[Count]
RealOrRange = Real | Between[Real]
NotNegativeOrRange = NotNegative | Between[NotNegative]
PositiveOrRange = Positive | Between[Positive]


def ends(value: T | tuple[T, T]) -> tuple[T, T]:
    """A number, or a range [low, high], as its two ends."""
    if isinstance(value, (tuple, list)):
        low, high = value
        return low, high
    return value, value


class _Refused(Exception):
    """A value that a hint does not allow, with a way to mend it."""

    def __init__(self, mend: str = "") -> None:
        self.mend = mend


def checked(function: Function) -> Function:
    """Check a function's arguments against its type hints before it runs.

    Raises:
        ValueError: in the function, if an argument does not meet its hint.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # which says so in Python's own words
        check_arguments(function, bound)
        return function(*bound.args, **bound.kwargs)

    return typing.cast(Function, checking)


def check_arguments(function: Callable[..., Any], bound: inspect.BoundArguments) -> None:
    """Check the arguments of a call, and put plain numbers of Python in the place of NumPy's, tuples in that of lists.

    Raises:
        ValueError: if one does not meet its type hint; a default is not looked at.
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
        ValueError: if one does not meet its type hint.
    """
    cls = type(made)
    known = hints(cls)
    for name, field in cls.__dataclass_fields__.items():
        value = getattr(made, name)
        if name in known and value is not field.default:
            taken = check(name, value, known[name])
            if taken is not value:
                object.__setattr__(made, name, taken)


def check(name: str, value: Any, hint: Any) -> Any:
    """A value as its hint wants it: plain numbers of Python in the place of NumPy's, tuples in that of lists.

    Raises:
        ValueError: if it does not meet the hint.
    """
    try:
        return _take(value, hint)
    except _Refused as refused:
        mend = f"; {refused.mend}" if refused.mend else ""
        raise ValueError(f"expected {name} as {describe(hint)}, got {shown(value)}{mend}") from None


@functools.cache
def hints(owner: Any) -> Mapping[str, Any]:
    """The type hints of a function or class, with their ranges; without those whose names are not known."""
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
            with contextlib.suppress(NameError, AttributeError, TypeError):  # imported for type checkers alone, say
                one = types.SimpleNamespace(__annotations__={name: hint})
                found[name] = typing.get_type_hints(one, globalns=names, include_extras=True)[name]
    found.pop("return", None)
    return found


def shown(value: Any) -> str:
    """A value in an error, on one line and not longer than a person reads."""
    if isinstance(value, Tensor):
        return f"a tensor {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {list(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return " ".join(_SHORT.repr(value).split())


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


def describe(hint: Any, many: bool = False) -> str:
    """A type hint as a person would say it."""
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
    """A hint without what annotates it, and that."""
    if typing.get_origin(hint) is Annotated:
        return hint.__origin__, hint.__metadata__
    return hint, ()


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _take(value: Any, hint: Any) -> Any:
    base, marks = _parts(hint)
    if isinstance(value, np.generic):
        value = value.item()
    if base in (int, float):
        return _number(value, base, next((mark for mark in marks if isinstance(mark, Within)), Within()))
    if base is str:
        return _string(value)
    if base in (bool, type(None), None):
        return _if(value is None if base is not bool else isinstance(value, bool), value)
    if _is_union(base):
        return _any_of(value, typing.get_args(base))
    origin, args = typing.get_origin(base), typing.get_args(base)
    if origin is Literal:
        near = difflib.get_close_matches(value, [arg for arg in args if isinstance(arg, str)], 1) if isinstance(
            value, str) else []  # fmt: skip
        same = any(value == arg and type(value) is type(arg) for arg in args)
        return _if(same, value, f"did you mean {near[0]!r}?" if near else "")
    if origin in _LISTS or base in _LISTS:
        return _several(value, origin or base, args, marks)
    if origin in _MAPPINGS or base in _MAPPINGS:
        return _if(isinstance(value, Mapping), value)
    if origin is collections.abc.Callable:
        return _if(callable(value), value)
    if origin is type or base is type:
        below = [arg for arg in args if isinstance(arg, type)]
        return _if(isinstance(value, type) and issubclass(value, tuple(below) or object), value)
    if _is_ours(base):
        made = isinstance(value, type) and issubclass(value, base)
        return _if(isinstance(value, base), value, f"make one: {_name(value)}(...)" if made else "")
    return value


def _if(good: bool, value: Any, mend: str = "") -> Any:
    if not good:
        raise _Refused(mend)
    return value


def _number(value: Any, kind: type, bounds: Within) -> Any:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind is float and (whole or isinstance(value, float)):
        try:
            value = float(value)
        except OverflowError:
            raise _Refused from None
        return _if(value in bounds, value)
    if kind is int and whole:
        return _if(value in bounds, int(value))
    if isinstance(value, (Tensor, np.ndarray)):
        raise _Refused("use .item()")
    if isinstance(value, float) and value.is_integer():
        raise _Refused(f"use {int(value)}")
    if isinstance(value, str) and value.strip().isdecimal():
        raise _Refused(f"use {value.strip()}, without quotes")
    raise _Refused


def _string(value: Any) -> str:
    taken = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(taken, str):
        raise _Refused
    return taken


def _any_of(value: Any, choices: tuple[Any, ...]) -> Any:
    mends = []
    for choice in choices:
        try:
            return _take(value, choice)
        except _Refused as refused:
            mends.append(refused.mend)
    raise _Refused(next(filter(None, mends), ""))


def _several(value: Any, kind: Any, args: tuple[Any, ...], marks: tuple[Any, ...]) -> Any:
    if not isinstance(value, (list, tuple)):
        if kind is collections.abc.Sequence and isinstance(value, kind) and not isinstance(value, (str, bytes)):
            return value
        raise _Refused("use .tolist()" if isinstance(value, (Tensor, np.ndarray)) else "")
    if kind is tuple and args and args[-1] is not ...:
        _if(len(value) == len(args), value)
        of: list[Any] = list(args)
    else:
        of = [args[0] if args else Any] * len(value)
    taken = [_take(part, hint) for part, hint in zip(value, of, strict=True)]
    if ASCENDING in marks and not taken[0] <= taken[1]:
        raise _Refused("the lower one comes first" if len(set(taken)) == 2 else "")
    if all(a is b for a, b in zip(taken, value, strict=True)) and (kind is not tuple or isinstance(value, tuple)):
        return value
    return tuple(taken) if kind is tuple else type(value)(taken)


def _is_ours(hint: Any) -> bool:
    """A class of this package, or below one; a protocol may be met by any object."""
    if not isinstance(hint, type) or getattr(hint, "_is_protocol", False):
        return False
    return any(base.__module__.partition(".")[0] == __package__ for base in hint.__mro__)
