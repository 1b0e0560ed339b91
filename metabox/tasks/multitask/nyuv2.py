"""NYUv2 in the layout of Liu et al. 2019: segmentation, depth and normals of indoor photographs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from metabox.config import Unpack
from metabox.data import root
from metabox.data.decode import MOST_PIXELS
from metabox.data.readers import load_array, name_some
from metabox.ranges import Count, NotNegative
from metabox.targets import Parts, TaskSpec
from metabox.tasks.multitask.scenes import scene_parts
from metabox.tasks.named import FiniteOptions, FiniteTasks
from metabox.tasks.rows import Rows

Array = NDArray[Any]

N_CLASSES = 13
KINDS = ("image", "label", "depth", "normal")
RANGES = {"image": (-0.01, 1.01), "label": (-1, N_CLASSES - 1), "depth": (-1000, 1000), "normal": (-2, 2)}
HELD_OUT = 10  # every tenth training image is for validation


class NYUv2(FiniteTasks):
    """Scene understanding on NYUv2 (Silberman et al. 2012), preprocessed by Liu et al. 2019 ("End-to-end multi-task
    learning with attention"): 795 training and 654 test photographs of 288 x 384 pixels.

    Each pixel has one of 13 classes, a depth in metres and a normal. Where a sensor saw nothing, the files have class
    -1, depth 0 or normal (0, 0, 0), which is a missing label here. The files' `val` is the test split, as in the
    literature; every tenth image of `train` is held out for validation, which the literature does without.

    Args:
        shrink: keep one pixel of every block of shrink x shrink: the mean of an image, the centre of a label.
        weights: weights of the losses of segmentation, depth and normals in their sum.
        data_root: folder of the data sets, with `nyuv2/train/{image,label,depth,normal}/N.npy` and `nyuv2/val/...`.
        **kwargs: of `FiniteTasks`.

    Raises:
        ValueError: at the first use, if files are missing or have another shape, naming them.
    """

    def __init__(
        self,
        shrink: Count = 1,
        weights: tuple[NotNegative, NotNegative, NotNegative] = (1.0, 1.0, 1.0),
        data_root: str | None = None,
        **kwargs: Unpack[FiniteOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.shrink = shrink
        self.weights = weights
        self.data_root = data_root

    def load(self) -> Rows:
        x, y, split = read(root.data_root(self.data_root), self.shrink)
        height, width = x.shape[2:]
        parts = scene_parts(N_CLASSES, (height, width), self.weights)
        return Rows(x=x, y=y, split=split, spec=TaskSpec(tuple(x.shape[1:]), Parts(parts)))


def read(folder: Path, shrink: int) -> tuple[Tensor, Tensor, Array]:
    """Images uint8 `[n, 3, H, W]`, targets `[n, 5 H W]` (classes, depth, normals) and splits `[n]`."""
    folder = folder / "nyuv2"
    numbers = {part: _numbers(folder / part) for part in ("train", "val")}
    splits = ["val" if i % HELD_OUT == HELD_OUT - 1 else "train" for i in range(len(numbers["train"]))]
    splits += ["test"] * len(numbers["val"])
    x: Tensor | None = None
    rows = [(part, number) for part, found in numbers.items() for number in found]
    for i, (part, number) in enumerate(tqdm(rows, desc="reading nyuv2", unit=" images", leave=False, disable=None)):
        pixels, targets = _example(folder / part, number, shrink)
        if x is None:
            x = torch.empty(len(rows), *pixels.shape, dtype=torch.uint8)
            y = torch.empty(len(rows), len(targets))
        if pixels.shape != x.shape[1:]:
            raise ValueError(
                f"expected images of one size, {list(x.shape[2:])}, got {list(pixels.shape[1:])} in {part}/{number}"
            )
        x[i], y[i] = torch.from_numpy(pixels), torch.from_numpy(targets)
    assert x is not None
    return x, y, np.array(splits)


def _numbers(folder: Path) -> list[int]:
    """The numbers N of the examples, which all four kinds must have."""
    found = {kind: {path.name for path in (folder / kind).glob("*.npy")} for kind in KINDS}
    every = set().union(*found.values())
    lacking = [f"{folder.name}/{kind}/{name}" for kind in KINDS for name in sorted(every - found[kind])]
    odd = [name for name in every if not name.isascii() or not name.removesuffix(".npy").isdecimal()]
    if not every or lacking or odd:
        raise ValueError(
            f"expected {folder}/{{{','.join(KINDS)}}}/N.npy, N = 0, 1, ..., got none of "
            f"{name_some(lacking or sorted(odd) or ['all'])}; unpack the preprocessed nyuv2.zip of "
            f"github.com/lorenmt/mtan as nyuv2/ under the data root, and {root.how_to_name_a_root()}"
        )
    return sorted(int(name.removesuffix(".npy")) for name in every)


def _example(folder: Path, number: int, shrink: int) -> tuple[Array, Array]:
    """One image uint8 `[3, H, W]` and its targets `[5 H W]`, NaN if missing."""
    image, label, depth, normal = (load_array(folder / kind / f"{number}.npy") for kind in KINDS)
    if image.ndim != 3 or 0 in image.shape or math.prod(image.shape[:2]) > MOST_PIXELS:
        raise ValueError(f"expected image/{number}.npy of shape (height, width, 3) in {folder}, got {image.shape}")
    h, w = image.shape[:2]
    shapes = {"image": (h, w, 3), "label": (h, w), "depth": (h, w, 1), "normal": (h, w, 3)}
    for (kind, shape), array in zip(shapes.items(), (image, label, depth, normal), strict=True):
        if array.shape != shape:
            raise ValueError(f"expected {kind}/{number}.npy of shape {shape} in {folder}, got {array.shape}")
        low, high = RANGES[kind]
        if array.dtype.kind not in "iuf" or not ((low <= array) & (array <= high)).all():  # false of NaN too
            raise ValueError(
                f"expected numbers from {low} to {high} in {kind}/{number}.npy in {folder}, got others, "
                f"infinity or NaN; get it again"
            )
    h, w = h // shrink * shrink, w // shrink * shrink
    blocks = image[:h, :w].reshape(h // shrink, shrink, w // shrink, shrink, 3).mean((1, 3))
    pixels = np.clip(blocks * 255 + 0.5, 0, 255).astype(np.uint8).transpose(2, 0, 1)
    middle = slice(shrink // 2, h, shrink), slice(shrink // 2, w, shrink)
    label, depth, normal = (array[middle].astype(np.float32) for array in (label, depth, normal))
    label = np.where(label < 0, np.nan, label)
    depth = np.where(depth > 0, depth, np.nan)
    normal = np.where((normal != 0).any(-1, keepdims=True), normal, np.nan).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels), np.concatenate([label.ravel(), depth.ravel(), normal.ravel()])
