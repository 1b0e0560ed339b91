"""Inputs as a user has them: paths, Pillow's images, arrays or tensors, to what a learner sees."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from metabox.checks import shown
from metabox.data.decode import MOST_BYTES, image_of, open_image
from metabox.data.preprocessing import Preprocessing

CHANNELS = (1, 3, 4)


def as_inputs(
    given: Any, x_shape: tuple[int, ...], preprocessing: Preprocessing | None, padded: bool = False
) -> Tensor:
    """Inputs of one kind `[N, *x_shape]`, uint8 for images; what was given is not changed.

    Args:
        given: for images a sequence of paths, Pillow's images and arrays `[height, width]` or `[height, width,
            channels]`, or one array with N in front; all are preprocessed. A uint8 tensor `[N, *x_shape]` is taken as
            it is. For anything else an array or a tensor `[N, *x_shape]`.
        x_shape: shape of one input.
        preprocessing: of the training images; None to bring images to the size and channels of `x_shape` only.
        padded: whether vectors may be shorter than the learner's; zeros fill them up.

    Raises:
        ValueError: if one of them is no such input; the message says which.
    """
    if isinstance(given, Tensor) and tuple(given.shape[1:]) == x_shape:
        return given.detach()
    if len(x_shape) == 3:
        return _images(given, x_shape, preprocessing)
    return _numbers(given, x_shape, padded)


def _numbers(given: Any, x_shape: tuple[int, ...], padded: bool) -> Tensor:
    if isinstance(given, (str, bytes, os.PathLike, Image.Image)):
        raise ValueError(f"expected numbers {_axes(x_shape)}, got {shown(given)}; the model takes no files")
    try:
        array = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected numbers {_axes(x_shape)}, got something else: {error}") from error
    if padded and len(x_shape) == 1 and array.ndim == 2 and 0 < array.shape[1] < x_shape[0]:
        array = np.pad(array, ((0, 0), (0, x_shape[0] - array.shape[1])))
    if array.ndim != 1 + len(x_shape) or array.shape[1:] != x_shape:
        mend = "; add an axis: x[:, None]" if array.ndim == 1 and x_shape == (1,) else ""
        raise ValueError(f"expected numbers {_axes(x_shape)}, got an array {list(array.shape)}{mend}")
    if not np.isfinite(array).all():
        raise ValueError("expected finite numbers, got NaN or infinity")
    return torch.tensor(array)  # float64: a learner with a scale has use for all digits


def _images(given: Any, x_shape: tuple[int, ...], preprocessing: Preprocessing | None) -> Tensor:
    channels, height, width = x_shape
    if preprocessing is None:
        if channels not in (1, 3):
            raise ValueError(f"expected a uint8 tensor {_axes(x_shape)}, got {shown(given)}")
        preprocessing = Preprocessing(cast(Any, channels), (height, width))
    elif preprocessing.image_size is None:
        preprocessing = replace(preprocessing, image_size=(height, width))
    images = _listed(given)
    if not images:
        raise ValueError("expected at least one image, got none")
    x = torch.empty(len(images), *x_shape, dtype=torch.uint8)
    for number, image in enumerate(images):
        try:
            pixels = preprocessing(_image(image))
            if pixels.shape != x_shape:
                raise ValueError(f"{list(pixels.shape)} after preprocessing instead of {list(x_shape)}")
            x[number] = torch.tensor(pixels)
        except (ValueError, OSError) as error:
            name = f" ({os.fspath(image)})" if isinstance(image, (str, os.PathLike)) else ""
            raise ValueError(f"expected images, got as number {number}{name}: {error}") from error
    return x


def _listed(given: Any) -> Sequence[Any]:
    if isinstance(given, (str, bytes, os.PathLike, Image.Image)):
        raise ValueError(f"expected a list of images, got {shown(given)}; put a single image into a list")
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
    if not isinstance(given, (np.ndarray, list, tuple)):
        given = np.asarray(given)  # a column of a data frame, say
    if isinstance(given, (list, tuple)):
        return given
    if given.dtype.kind in "OUS":
        return list(given[:, 0] if given.ndim == 2 and given.shape[1] == 1 else given)
    if given.ndim == 4 and given.shape[-1] not in CHANNELS and given.shape[1] in CHANNELS:
        given = given.transpose(0, 2, 3, 1)
    if given.ndim not in (3, 4) or (given.ndim == 3 and given.shape[-1] in CHANNELS):
        raise ValueError(
            f"expected images as an array [N, height, width] or [N, height, width, channels], got {list(given.shape)}; "
            "put a single image into a list, and give flat ones their shape"
        )
    return list(given)


def _image(given: Any) -> Image.Image:
    if isinstance(given, Image.Image):
        return given
    if isinstance(given, (str, os.PathLike)):
        return open_image(_content(Path(given)))
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
        given = given.transpose(1, 2, 0) if given.ndim == 3 and given.shape[0] in CHANNELS else given
    if isinstance(given, (np.ndarray, list, tuple)):
        return image_of(_bytes(np.asarray(given)))
    raise ValueError(f"{shown(given)}, which is no path, Pillow image or array")


def _content(path: Path) -> bytes:
    if not path.is_file():  # reading a pipe would wait for a writer
        raise ValueError("no such file")
    with path.open("rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"a file of more than {MOST_BYTES >> 20} MiB")
    return content


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey levels from 0 to 255 of an array of bytes, of whole numbers from 0 to 255, or of floats from 0 to 1."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "biuf" or not array.size:
        raise ValueError(f"an array of {array.dtype} {list(array.shape)}, which is no image")
    low, high = float(array.min()), float(array.max())
    most = 1 if array.dtype.kind in "bf" else 255
    if not 0 <= low <= high <= most:
        raise ValueError(
            f"{array.dtype} values from {low:g} to {high:g}, instead of whole ones from 0 to 255 or floats from 0 to 1"
        )
    return np.round(array.astype(np.float64) * (255 / most)).astype(np.uint8)


def _axes(x_shape: tuple[int, ...]) -> str:
    return f"[{', '.join(['N', *map(str, x_shape)])}]"
