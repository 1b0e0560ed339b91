"""Reads pickles from strangers: arrays, numbers, text and plain containers, and nothing that could run.

A pickle is a program that may call anything it names. Here it finds only the few names below, each standing
for a function of ours, so that neither code nor NumPy's own reconstruction is run on a stranger's word.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLAIN = re.compile(r"[biuf](1|2|4|8)|[SU][0-9]{1,6}|O8?")  # NumPy's codes of numbers, text, and objects


def safe_load(path: Path) -> Any:
    """The content of a pickle, made by Python 3 or 2 (whose strings are read as Latin-1).

    Raises:
        ValueError: where it holds anything but arrays and plain containers, naming that, or is no whole pickle.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file, encoding="latin1").load()
    except OSError:
        raise
    except Exception as error:  # a broken stream raises whatever it meets first
        raise ValueError(
            f"expected a pickle of arrays and plain containers in {path}, got something else ({error}); "
            "get it again from where it was published, and do not open it with pickle itself"
        ) from error


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Methods and one built-in type: a pickle may set attributes of what it is given, and on these it cannot.
        match module.replace("numpy._core", "numpy.core"), name:
            case "numpy", "ndarray":
                return "ndarray"  # only ever an argument, which _new_array passes over
            case "numpy", "dtype":
                return self._dtype
            case "numpy.core.multiarray", "_reconstruct":
                return self._new_array
            case "numpy.core.multiarray", "scalar":
                return self._scalar
            case "numpy.core.numeric", "_frombuffer":
                return self._array
            case "_codecs", "encode":
                return self._bytes
            case "__builtin__", "bytes":
                return self._no_bytes
            case "collections", "OrderedDict":
                return OrderedDict
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def _dtype(self, code: str, *_: object) -> _DType:
        return _DType(code)

    def _new_array(self, *_: object) -> _Array:
        return _Array(0, np.uint8)  # _Array.__setstate__ fills it

    def _array(self, content: bytes, dtype: _DType, shape: tuple[int, ...], order: str) -> NDArray[Any]:
        return np.frombuffer(content, dtype.numpy()).reshape(shape, order="F" if order == "F" else "C")

    def _scalar(self, dtype: _DType, content: bytes | str) -> Any:
        return np.frombuffer(_raw(content), dtype.numpy())[0]

    def _bytes(self, text: str, encoding: str) -> bytes:
        return text.encode("latin1")  # the one that Python 3 writes bytes in for Python 2

    def _no_bytes(self) -> bytes:
        return b""


class _DType:
    """The type of an array's entries, spelled out; what a pickle says of records is refused or not listened to."""

    def __init__(self, code: str) -> None:
        if not PLAIN.fullmatch(code):
            raise pickle.UnpicklingError(f"it has an array of {code!r}")
        self.code, self.order = code[0] if code[0] == "O" else code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it has an array in the byte order {state[1]!r}")
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _Array(np.ndarray[Any, Any]):
    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, by_columns, content = state
        super().__setstate__((version, shape, dtype.numpy(), by_columns, _raw(content)))


def _raw(content: Any) -> Any:
    return content.encode("latin1") if isinstance(content, str) else content
