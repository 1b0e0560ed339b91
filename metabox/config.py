"""The configuration is the arguments of constructors, recorded when an object is made.

`Configured` is the base of samplers, learners, backbones, objectives, likelihoods, weightings, augmentations,
descriptors and kernels. What identifies a run, and what a result file reports of it, is read from this record;
nothing is inferred from a repr or from attribute names.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, get_origin

import numpy as np
import torch
from torch import Tensor

from metabox.checks import check_arguments

if TYPE_CHECKING:
    from typing_extensions import Unpack as Unpack
else:

    class Unpack:
        """Tells type checkers what `**kwargs: Unpack[Options]` may hold; at run time it is `Any`.

        The defaults are in the base class that takes the arguments, where the parser of recipes finds them.
        """

        def __class_getitem__(cls, options: object) -> Any:
            return Any


_RECORD, _MAKING = "_config", "_config_is_being_made"


class Configured:
    """An object that knows the arguments that it was made with.

    Every constructor of a subclass is wrapped: the outermost call records its arguments, defaults filled in, as plain
    data before its body runs, so that the body may change what it was given. Arguments that reach the
    constructor of a base through `**kwargs` are recorded under the base's names. A dataclass's fields are its record.

    Before that, the arguments are checked against the type hints, with the ranges that these declare; see
    `metabox.ranges`. A subclass needs no checks of single arguments.

    Raises:
        ValueError: by constructors, if an argument does not match its hint.
    """

    data_arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments that only locate data: two objects are compared by the data's fingerprint instead."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        owner = next(base for base in cls.__mro__ if _has_constructor(base))
        # An inherited constructor may be that of a mix-in. A dataclass gets its own later if there is none yet.
        if owner is cls or not dataclasses.is_dataclass(owner):
            init = vars(owner)["__init__"]
            if init is not object.__init__ and not hasattr(init, _RECORD):
                cls.__init__ = _recording(init)  # type: ignore[method-assign]

    @property
    def config(self) -> dict[str, Any]:
        """The class and the arguments of its constructor as plain data: nested objects as trees, tensors by a hash."""
        recorded: dict[str, Any] | None = vars(self).get(_RECORD)
        if recorded is not None:
            return recorded
        fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        return _Record(type(self), {field.name: getattr(self, field.name) for field in fields if field.init})

    def __repr__(self) -> str:
        """The call that made the object, without the arguments that have their defaults."""
        return _shown(self.config)


class _Record(dict[str, Any]):
    """The record of one object: "class", then its arguments."""

    def __init__(self, cls: type, arguments: Mapping[str, Any]) -> None:
        super().__init__({"class": class_path(cls)} | {name: plain(value) for name, value in arguments.items()})
        self.cls = cls
        self.data_arguments: tuple[str, ...] = getattr(cls, "data_arguments", ())


class Undescribed(str):
    """Replaces a value without a stable description in a record: a lambda, an object of unknown kind."""


def identity(config: Any) -> Any:
    """The record of an object without the arguments that only locate its data."""
    if isinstance(config, dict):
        left_out = getattr(config, "data_arguments", ())
        return {name: identity(value) for name, value in config.items() if name not in left_out}
    return [identity(value) for value in config] if isinstance(config, list) else config


def check_described(**configs: Any) -> None:
    """Refuse records with values that no later process could compare.

    Raises:
        ValueError: if there is such a value, naming each argument.
    """
    odd = [f"{name} ({value})" for key, config in configs.items() for name, value in _undescribed(key, config)]
    if odd:
        raise ValueError(
            f"expected arguments with a stable description, got {', '.join(odd)}; a run could not tell whether it goes "
            "on with the same. Use a function of a module, or a class that derives from metabox.Configured"
        )


def differences(then: Any, now: Any, name: str = "") -> Iterator[str]:
    """What differs between two records, one line for each argument: `learner.heads: 4 there, 1 now`."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*then, *now]):
            yield from differences(then.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif then != now:
        yield f"{name}: {then} there, {now} now"


def plain(value: Any) -> Any:
    """A value as plain data for JSON; equal values give equal results."""
    match value:
        case Configured():
            return value.config
        case bool() | int() | None | Undescribed():
            return value
        case str() | os.PathLike():
            return os.fspath(value)
        case float():
            return value if math.isfinite(value) else repr(value)
        case enum.Enum():
            return value.name
        case np.generic():
            return plain(value.item())
        case Tensor() | np.ndarray():
            return _array(value)
        case torch.dtype() | torch.device():
            return str(value)
        case Mapping():
            return {str(key): plain(part) for key, part in value.items()}
        case list() | tuple() | range():
            return [plain(part) for part in value]
        case set() | frozenset():
            return sorted((plain(part) for part in value), key=repr)
        case functools.partial():
            return _partial(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _Record(type(value), {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, type):
        return _partial(functools.partial(value))
    return _function(value)


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(init)
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)

    @functools.wraps(init)
    def recording(self: Any, *args: Any, **kwargs: Any) -> None:
        state = vars(self)
        outermost = _MAKING not in state
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return init(self, *args, **kwargs)  # which raises Python's own message
        if outermost or state[_MAKING]:  # the caller's arguments, and those that reach a base through **kwargs
            check_arguments(init, bound)
            args, kwargs = bound.args[1:], bound.kwargs
        if outermost:
            bound.apply_defaults()
            record = _Record(type(self), _arguments(bound, rest))
            object.__setattr__(self, _RECORD, record)  # nn.Module is not initialised yet
        elif state[_MAKING]:  # reached through **kwargs: what the caller left out has its default here
            _fill_in(state[_RECORD], signature, bound)
        before = state.get(_MAKING, True)
        object.__setattr__(self, _MAKING, before and rest is not None)
        try:
            init(self, *args, **kwargs)
        finally:
            if outermost:
                state.pop(_MAKING, None)
            else:
                object.__setattr__(self, _MAKING, before)

    setattr(recording, _RECORD, True)
    return recording


def _has_constructor(cls: type) -> bool:
    # A Protocol has a placeholder, which looks for the real one and must not be wrapped.
    return "__init__" in vars(cls) and not getattr(cls, "_is_protocol", False)


def _arguments(bound: inspect.BoundArguments, rest: str | None) -> dict[str, Any]:
    """The arguments of a call without `self`, with `**kwargs` merged in."""
    _, *named = bound.arguments.items()
    positional = [name for name, p in bound.signature.parameters.items() if p.kind is p.VAR_POSITIONAL]
    arguments = {name: value for name, value in named if name != rest and (name not in positional or len(value))}
    return arguments | (bound.arguments[rest] if rest is not None else {})


def _fill_in(record: dict[str, Any], signature: inspect.Signature, bound: inspect.BoundArguments) -> None:
    """Add the defaults of a base's constructor for arguments that the subclass neither has nor sets."""
    for name, parameter in signature.parameters.items():
        if parameter.default is not parameter.empty and name not in record:
            default = plain(parameter.default)
            if name not in bound.arguments or plain(bound.arguments[name]) == default:
                record[name] = default


def _partial(value: functools.partial[Any]) -> Any:
    """A class or function that waits for more arguments, with those that it has and the defaults of others."""
    function, args, kwargs = value.func, value.args, value.keywords
    if getattr(function, "__module__", "").startswith("jsonargparse."):  # which calls a class through its functions
        number = next((i for i, part in enumerate(args) if isinstance(part, type)), None)
        if number is not None:
            function, args = args[number], args[number + 1 :]
    described = {"class": class_path(function)} if isinstance(function, type) else plain(function)
    if isinstance(described, str):
        if isinstance(described, Undescribed):
            return described
        described = {"function": described}
    try:
        signature = inspect.signature(function)
        bound = signature.bind_partial(*args, **kwargs)
    except (TypeError, ValueError):  # a class in C, or arguments that do not fit
        return described | {"arguments": plain(args), **{name: plain(part) for name, part in kwargs.items()}}
    given = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(name, {})
        elif parameter.default is not parameter.empty:
            given.setdefault(name, parameter.default)
    record = _Record(function if isinstance(function, type) else object, given)
    record.update(described)
    return record


def _function(value: Any) -> Any:
    """A function or method by its importable name; `Undescribed` if it has none."""
    owner = getattr(value, "__self__", None)
    if inspect.ismethod(value) and not isinstance(owner, type):
        of = plain(owner)
        return of if isinstance(of, Undescribed) else {"method": value.__name__, "of": of}
    name = getattr(value, "__qualname__", "")
    if not callable(value) or not name or "<" in name or get_origin(value) is not None:
        return Undescribed(name or f"{type(value).__module__}.{type(value).__qualname__} object")
    return f"{value.__module__}.{name}"


def class_path(cls: type) -> str:
    """The name by which a record calls a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _array(value: Tensor | np.ndarray) -> Any:
    """Type, shape and a hash of the numbers (or strings), in row-major order."""
    if isinstance(value, Tensor):
        kind, data = str(value.dtype).removeprefix("torch."), value.detach().cpu().contiguous()
        content = data.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif value.dtype.hasobject:
        return Undescribed("array of objects")
    else:
        kind, content = str(value.dtype), value.tobytes()
    return {"dtype": kind, "shape": list(value.shape), "blake2b": blake2b(content, digest_size=8).hexdigest()}


def _shown(value: Any) -> str:
    """A record as the call that made the object."""
    if isinstance(value, _Record):
        defaults = _defaults(value.cls)
        differ = {name: part for name, part in value.items() if defaults.get(name, _NONE) != part}
        arguments = (f"{name}={_shown(part)}" for name, part in differ.items() if name != "class")
        return f"{value['class'].rpartition('.')[2]}({', '.join(arguments)})"
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, list) else repr(value)


@functools.cache
def _defaults(cls: type) -> dict[str, Any]:
    """The defaults of a class's constructor, and of those of its bases, as in a record."""
    found: dict[str, Any] = {}
    for owner in reversed(cls.__mro__):
        if "__init__" in vars(owner):
            parameters = inspect.signature(vars(owner)["__init__"]).parameters.values()
            found |= {p.name: plain(p.default) for p in parameters if p.default is not p.empty}
    return found


_NONE = object()


def _undescribed(name: str, config: Any) -> Iterator[tuple[str, str]]:
    match config:
        case Undescribed():
            yield name, config
        case dict():
            for key, value in config.items():
                yield from _undescribed(f"{name}.{key}", value)
        case list():
            for number, value in enumerate(config):
                yield from _undescribed(f"{name}[{number}]", value)
