"""Conversion of user input to tensors: NumPy arrays and float64 are accepted, anything else raises a ValueError."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metabox.checks import kind_of, shown

FLOATS = (torch.float32, torch.float64)


def tensor_of(name: str, value: Any, axes: str) -> Tensor:
    """A tensor unchanged, a NumPy array as a tensor of the same type.

    Raises:
        ValueError: if it is neither, or an array of anything but numbers.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        try:
            native = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
            return torch.from_numpy(native if native.flags.writeable else native.copy())
        except TypeError:  # such as a float of 128 bits
            pass
    raise ValueError(
        f"expected {name} as a tensor or a NumPy array of numbers {axes}, got {shown(value)}; use torch.as_tensor(...)"
    )


def floats_of(name: str, value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Floats in the type of a learner's weights, unchanged if it has none.

    Raises:
        ValueError: if they are of neither that type nor float32 or float64.
    """
    if value.dtype == dtype or (dtype is None and value.dtype in FLOATS):
        return value
    if value.dtype not in FLOATS:
        raise ValueError(f"expected {name} in float32 or float64, got {kind_of(value)}; use .float()")
    return value.to(dtype)


def device_of(value: Any) -> torch.device:
    """The device with this name.

    Raises:
        ValueError: if there is no such device.
    """
    try:
        return torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"expected a device, as 'cpu' or 'cuda:0', got {shown(value)}") from error
