"""The models that come with the package, `metabox/models/NAME.metabox`, and how any model is found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from metabox.checks import shown
from metabox.discover import models
from metabox.model import Model
from metabox.model_file import SUFFIX


def find_model(model: Any, device: str | None = None, plugins: Sequence[str] = ()) -> Model:
    """A model from its name in the package, its file, the folder of a run, or itself; read once until it changes.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(model, Model):
        return model if device is None else model.to(device)
    if not isinstance(model, (str, os.PathLike)):
        raise ValueError(f"expected a model's name, its file, the folder of a run, or a Model, got {shown(model)}")
    known = models()
    path = known.get(os.fspath(model), Path(model))
    read = path / "best.safetensors" if path.is_dir() else path
    if not read.is_file():
        there = f"{', '.join(known)} come with metabox" if known else "no model comes with this metabox"
        raise ValueError(
            f"expected a model's name, a file *{SUFFIX} or the folder of a run, got {str(model)!r}; {there}"
        )
    state = read.stat()
    return _read(path.resolve(), (state.st_mtime_ns, state.st_size), device or "cpu", tuple(plugins))


@lru_cache(maxsize=4)
def _read(path: Path, stamp: tuple[int, int], device: str, plugins: tuple[str, ...]) -> Model:
    if path.is_dir():
        return Model.from_run(str(path), plugins=plugins).to(device)
    return Model.load(path, device, plugins)
