"""Reads untrusted pickles: arrays, numbers, text and plain containers, and nothing that could run code.

A pickle is a program for a stack machine. This machine has only the opcodes below: it calls only the few functions that
replace NumPy's, fills each array once and with content of the right length, and copies no more than four times the size
of the file. It is Python's unpickler written in Python, since the one in C allocates whatever a stream asks for.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from metabox.data.readers import open_file

PLAIN = re.compile(r"[biuf](1|2|4|8)|[SU][1-9][0-9]{0,5}|O8?")  # NumPy's type codes of numbers, text and objects
MOST_AXES = 32
LARGEST_KEY = 1 << 53  # larger numbers may have the same hash as smaller ones
MESSAGE = 200  # letters of an error's message

OPCODES = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP),
    *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.LONG, pickle.LONG1, pickle.LONG4, pickle.FLOAT, pickle.BINFLOAT),
    *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINBYTES, pickle.SHORT_BINBYTES),
    *(pickle.BINBYTES8, pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST, pickle.LIST),
    *(pickle.EMPTY_DICT, pickle.EMPTY_SET, pickle.GLOBAL, pickle.STACK_GLOBAL),
)  # and those of `_Reader.OWN`


def safe_load(path: Path) -> Any:
    """The content of a pickle, made by Python 3 or 2 (whose strings are read as Latin-1).

    Raises:
        ValueError: if it holds anything but arrays and plain containers, naming that, or is not a complete pickle.
    """
    try:
        with open_file(path) as file:
            return _Reader(file, path.stat().st_size).load()
    except OSError:
        raise
    except Exception as error:  # a broken stream raises all kinds of exceptions
        raise ValueError(
            f"expected a pickle of arrays and plain containers in {path}, got something else "
            f"({str(error)[:MESSAGE] or type(error).__name__}); "
            "get it again from where it was published, and do not open it with pickle itself"
        ) from error


class _Call:
    """The function that a name in a pickle stands for: it can only be called, with a tuple of arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


_Unpickler: Any = pickle._Unpickler  # the stubs lack most of it


class _Reader(_Unpickler):  # type: ignore[misc]
    def __init__(self, file: Any, size: int) -> None:
        super().__init__(file, encoding="latin1")
        self.left = 4 * size  # bytes to copy: older protocols copy an array as text, then as bytes, then as numbers

    def find_class(self, module: str, name: str) -> Any:
        match module.replace("numpy._core", "numpy.core"), name:
            case "numpy", "ndarray":
                return "ndarray"  # only ever an argument, which _new_array ignores
            case "numpy", "dtype":
                return _Call(_DType)
            case "numpy.core.multiarray", "_reconstruct":
                return _Call(_new_array)
            case "numpy.core.multiarray", "scalar":
                return _Call(_scalar)
            case "numpy.core.numeric", "_frombuffer":
                return _Call(_array)
            case "_codecs", "encode":
                return _Call(self._bytes)
            case "__builtin__", "bytes":
                return _Call(bytes)
            case "collections", "OrderedDict":
                return _Call(OrderedDict)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def _bytes(self, text: str, encoding: str) -> bytes:
        self._spend(len(text))
        return text.encode("latin1")  # in which Python 3 writes bytes for Python 2

    def _spend(self, count: int) -> None:
        """Limit copies: a stream that refers to one long text a thousand times would fill the memory."""
        self.left -= count
        if self.left < 0:
            raise pickle.UnpicklingError("it unpacks to more than it holds")

    def load_reduce(self) -> None:
        arguments, call = self.stack.pop(), self.stack.pop()
        if (
            type(call) is not _Call
            or type(arguments) is not tuple
            or (call.function in (bytes, OrderedDict) and arguments)
        ):
            raise pickle.UnpicklingError("it calls something that is not a function")
        self.append(call.function(*arguments))

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) not in (_Array, _DType) or type(state) is not tuple:
            raise pickle.UnpicklingError("it changes something that is not an array")
        if type(made) is _Array and len(state) == 5:
            self._spend(len(state[4]))
        made.receive(*state)

    def load_bytearray8(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def load_put(self) -> None:
        (place,) = _keys([int(self.readline()[:-1])])
        self.memo[place] = self.stack[-1]

    def load_append(self) -> None:
        self._to(list, -2).append(self.stack.pop())

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._to(list).extend(items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        self._to(set).update(_keys(items))

    def load_frozenset(self) -> None:
        self.append(frozenset(_keys(self.pop_mark())))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._to(dict).update(zip(_keys([key]), [value], strict=True))

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._to(dict).update(zip(_keys(items[::2]), items[1::2], strict=True))

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(dict(zip(_keys(items[::2]), items[1::2], strict=True)))

    def _to(self, kind: type, place: int = -1) -> Any:
        if not isinstance(self.stack[place], kind):
            raise pickle.UnpicklingError(f"it adds to something that is not a {kind.__name__}")
        return self.stack[place]

    OWN = {  # noqa: RUF012
        pickle.REDUCE: load_reduce,
        pickle.BUILD: load_build,
        pickle.BYTEARRAY8: load_bytearray8,
        pickle.PUT: load_put,
        pickle.APPEND: load_append,
        pickle.APPENDS: load_appends,
        pickle.ADDITEMS: load_additems,
        pickle.FROZENSET: load_frozenset,
        pickle.SETITEM: load_setitem,
        pickle.SETITEMS: load_setitems,
        pickle.DICT: load_dict,
    }
    dispatch = {  # noqa: RUF012
        **{code[0]: _Unpickler.dispatch[code[0]] for code in OPCODES},
        **{code[0]: function for code, function in OWN.items()},
    }


class _DType:
    """The type of an array's entries; types of records are refused or ignored."""

    def __init__(self, code: str, *_: object) -> None:
        if not PLAIN.fullmatch(code):
            raise pickle.UnpicklingError(f"it has an array of {code!r}")
        self.code, self.order = code[0] if code[0] == "O" else code, "|"

    def receive(self, _: object, order: str, *__: object) -> None:
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("it has an array in no known byte order")
        self.order = order

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _Array(np.ndarray[Any, Any]):
    filled = False

    def receive(self, version: object, shape: Any, dtype: _DType, by_columns: object, content: Any) -> None:
        """Fill the array once, with as many entries as its shape has: NumPy would trust the shape and read beyond."""
        if self.filled:
            raise pickle.UnpicklingError("it fills an array twice")
        self.filled = True
        kind, content = dtype.numpy(), _raw(content)
        size = _size(shape)
        if kind.hasobject != (type(content) is list):
            raise pickle.UnpicklingError("it has objects in place of numbers, or numbers in place of objects")
        if len(content) != size * (1 if kind.hasobject else kind.itemsize):
            raise pickle.UnpicklingError(f"it has an array of shape {shape} and content of another length")
        self.__setstate__(cast(Any, (1, shape, kind, bool(by_columns), content)))


def _new_array(*_: object) -> _Array:
    empty: _Array = _Array(0, np.uint8)  # `receive` follows
    return empty


def _array(content: bytes, dtype: _DType, shape: tuple[int, ...], order: str) -> NDArray[Any]:
    kind = dtype.numpy()
    if type(content) is not bytes or kind.hasobject or len(content) != _size(shape) * kind.itemsize:
        raise pickle.UnpicklingError(f"it has an array of shape {shape} and content of another length")
    return np.frombuffer(content, kind).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: _DType, content: bytes | str) -> Any:
    (value,) = np.frombuffer(cast(bytes, _raw(content)), dtype.numpy())
    return value


def _size(shape: object) -> int:
    """The number of entries of a shape."""
    if (
        type(shape) is not tuple
        or len(shape) > MOST_AXES
        or not all(type(n) is int and n >= 0 for n in shape)
        or math.prod(max(n, 1) for n in shape) >= 1 << 60
    ):
        raise pickle.UnpicklingError("it has an array of no possible shape")
    return math.prod(shape)


def _raw(content: Any) -> Any:
    """Bytes (text in Python 2) or a list."""
    if type(content) not in (bytes, str, list):
        raise pickle.UnpicklingError("it has an array of neither bytes nor a list")
    return content.encode("latin1") if isinstance(content, str) else content


def _keys(items: Iterable[Any]) -> list[Any]:
    """Keys of a dictionary, of types for which nobody can choose a million with the same hash."""
    items = list(items)
    for key in items:
        if not (type(key) in (str, bytes, bool, type(None)) or (type(key) is int and abs(key) < LARGEST_KEY)):
            raise pickle.UnpicklingError(f"it has a key of type {type(key).__name__}")
    return items
