"""What conformance checks need to know of a class's options: which there are, what is senseless, what else can be said.

Everything is read from the type hints of constructors; see `metabox.checks`.
"""

from __future__ import annotations

import collections.abc
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from metabox.checks import check, shown
from metabox.hints import hints
from metabox.ranges import Within

SENSELESS: tuple[Any, ...] = (
    *(0, -1, 2**70, 1.5, math.nan, math.inf, -math.inf, True, None, "a", b"a", (), [], (2, 1), (1, "a"), (-1, 2)),
    *({}, {"a": 1}, object(), object, int, 1j),
)
"""Values each of which some options must refuse."""


class Option(NamedTuple):
    """An argument of a constructor."""

    name: str
    hint: Any
    default: Any


def options_of(cls: type) -> list[Option]:
    """The options of a class, also those that its constructor hands on to its base's as `**kwargs`."""
    found: dict[str, Option] = {}
    seen: set[Any] = set()
    for base in inspect.getmro(cls):
        init = vars(base).get("__init__")
        if not callable(init) or init is object.__init__ or inspect.unwrap(init) in seen:
            continue
        seen.add(inspect.unwrap(init))
        known, parameters = hints(init), list(inspect.signature(init).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                option = Option(parameter.name, known.get(parameter.name, Any), parameter.default)
                found.setdefault(parameter.name, option)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return list(found.values())


def undeclared(cls: type) -> list[str]:
    """The options of a class that are numbers of which its constructor's hints do not say the range."""
    return [option.name for option in options_of(cls) if any(_bare(option.hint))]


def _bare(hint: Any) -> Iterator[bool]:
    if typing.get_origin(hint) is Annotated:
        bounded = any(isinstance(mark, Within) for mark in hint.__metadata__)
        yield from () if bounded else _bare(hint.__origin__)
    elif hint in (int, float):
        yield True
    elif typing.get_origin(hint) in (typing.Union, types.UnionType, list, tuple, collections.abc.Sequence):
        for part in typing.get_args(hint):
            yield from _bare(part)


def bad_values(hint: Any) -> list[Any]:
    """Values that an option with this hint must refuse."""
    return [value for value in (*SENSELESS, *_edges(hint)) if _refused(hint, value)]


def _refused(hint: Any, value: Any) -> bool:
    try:
        check("", value, hint)
    except ValueError:
        return True
    return False


def _edges(hint: Any) -> Iterator[Any]:
    """Numbers just outside of bounds."""
    if typing.get_origin(hint) is Annotated:
        for mark in hint.__metadata__:
            if isinstance(mark, Within):
                yield from (mark.least - 1,) if mark.least is not None else ()
                yield from (mark.most + 1,) if mark.most is not None else ()
                yield from (end for end in (mark.above, mark.below) if end is not None)
        yield from _edges(hint.__origin__)
    elif typing.get_origin(hint) is not Literal:
        for part in typing.get_args(hint):
            yield from _edges(part)


def other_values(hint: Any, value: Any) -> Iterator[Any]:
    """Values that an option may have instead of this one; those that suit its class best come first."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    candidates: list[Any] = []
    if isinstance(value, bool):
        candidates = [not value]
    elif isinstance(value, (int, float)):
        candidates = [
            2 * value,
            value / 2 if isinstance(value, float) else value // 2,
            value + 1,
            value + 2,
            value - 1,
            0.5,
        ]
    elif isinstance(value, tuple) and value and isinstance(value[0], (int, float)):
        candidates = [(*value[:-1], value[-1] * 2), (value[0] / 2, *value[1:]), (value[0] + 1, *value[1:])]
    elif origin is Literal:
        candidates = list(args)
    elif isinstance(value, str) or hint is str:
        candidates = ["another"]
    elif value is None or value is inspect.Parameter.empty:
        candidates = [True, 1, 2, 4, 0.5, "another", (1, 2), ("another",)]
    for part in (hint, *args) if origin in (typing.Union, types.UnionType) else ():
        candidates += typing.get_args(part) if typing.get_origin(part) is Literal else ()
    for candidate in candidates:
        if candidate != value and not _refused(hint, candidate):
            yield candidate


def check_senseless_options_are_refused(make: Callable[..., Any], *given: Any, **required: Any) -> None:
    """Every option of a class declares its range, and answers what is outside of it by a ValueError that says so.

    Args:
        make: the class; anything else is passed over.
        *given: the first arguments, if there must be some.
        **required: others that must be there.

    Raises:
        AssertionError: naming the option and the value.
    """
    if not isinstance(make, type):
        return
    if bare := undeclared(make):
        raise AssertionError(f"{make.__name__} declares no range of {', '.join(bare)}; see metabox.ranges")
    for option in options_of(make)[len(given) :]:
        for value in bad_values(option.hint):
            told = f"{make.__name__}({option.name}={shown(value)})"
            try:
                make(*given, **required | {option.name: value})
            except ValueError as error:
                if not str(error).startswith(f"expected {option.name} as ") or ", got " not in str(error):
                    raise AssertionError(f"{told} must say what was expected and what came, got {error}") from error
                continue
            except TypeError as error:
                if "multiple values for" in str(error):  # a base's option, which the class sets itself
                    break
                raise AssertionError(f"{told} must be refused by a ValueError, got {error!r}") from error
            except Exception as error:
                raise AssertionError(f"{told} must be refused by a ValueError, got {error!r}") from error
            raise AssertionError(f"{told} must be refused, got an object")


def check_every_option_is_in_the_record(
    make: Callable[..., Any], *given: Any, others: Mapping[str, Any] | None = None, **required: Any
) -> list[str]:
    """Two equal constructions have the same `config`, and another value of any option has another one.

    Args:
        make: the class; anything else is passed over.
        *given: the first arguments, if there must be some.
        others: values other than the default, of options whose hints do not give one away.
        **required: arguments that must be there.

    Returns:
        The options of which no other value was found that goes with the others.

    Raises:
        AssertionError: naming the option.
    """
    if not isinstance(make, type):
        return []
    fixed = []
    usual = make(*given, **required).config
    if make(*given, **required).config != usual:
        raise AssertionError(f"two equal constructions of {make.__name__} have different records")
    for option in options_of(make)[len(given) :]:
        made = None
        known = [others[option.name]] if others and option.name in others else []
        for value in (*known, *other_values(option.hint, required.get(option.name, option.default))):
            try:
                made = make(*given, **{**required, option.name: value})
                break
            except ValueError:  # it does not go with the other options
                continue
            except TypeError as error:
                if "multiple values for" not in str(error):
                    raise
        if made is None:
            fixed.append(option.name)
        elif made.config == usual:
            raise AssertionError(f"{make.__name__}({option.name}={shown(value)}) has the record of the default")
    return fixed
