"""`Adaptation`: what a model has learned of one task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from metabox import model_file
from metabox.data.table import Columns, columns_from
from metabox.learners.base import Phi
from metabox.model_file import size_of


@dataclass(frozen=True)
class Adaptation:
    """What a model has learned of one task: phi, without the examples.

    phi: task parameters, with the number of views in front, mostly 1
    classes: the classes in the order of the columns of predictions; None if targets are not classes
    model: the fingerprint of the model that it belongs to
    n_inputs: how many numbers the inputs had, if they are vectors and this is known
    columns: how the columns of a table become these numbers, if the inputs are tables
    """

    phi: Phi
    classes: tuple[Any, ...] | None
    model: str
    n_inputs: int | None = None
    columns: Columns | None = None

    @property
    def n_views(self) -> int:
        return len(next(iter(self.phi.values())))

    def with_inputs(self, n_inputs: int | None, columns: Columns | None = None) -> Adaptation:
        """The same for inputs of this many numbers, or for tables of these columns."""
        return replace(self, n_inputs=n_inputs, columns=columns)

    @property
    def n_bytes(self) -> int:
        """Bytes of phi."""
        return sum(part.numel() * part.element_size() for part in self.phi.values())

    def __repr__(self) -> str:
        what = "" if self.classes is None else f"{len(self.classes)} classes, "
        return f"Adaptation({what}phi of {size_of(self.n_bytes)})"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a file `*.metabox` without the examples and without the model.

        Raises:
            ValueError: if the path has another suffix, or classes are neither strings nor numbers.
        """
        content = model_file.to_bytes("adaptation", self.phi, {"model": self.model, "adaptation": self.about()})
        return model_file.write(path, content)

    def about(self) -> dict[str, Any]:
        """All but phi as values of JSON, for `adaptation_from`."""
        classes = None if self.classes is None else plain_classes(self.classes)
        columns = {} if self.columns is None else {"columns": self.columns.about()}
        return {"classes": classes, "n_inputs": self.n_inputs, **columns}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Adaptation:
        """Read what `save` wrote; the file may be untrusted.

        Raises:
            ValueError: if it is no such file.
        """
        tensors, about = model_file.from_bytes("adaptation", model_file.read(path), str(path))
        return adaptation_from(tensors, about.get("adaptation"), about.get("model"), str(path))


def adaptation_from(phi: Phi, about: Any, model: Any, where: str) -> Adaptation:
    """The adaptation with this phi, from what `Adaptation.about` returned; both may be untrusted.

    Raises:
        ValueError: if they are no adaptation.
    """
    lengths = {len(part) if part.ndim else 0 for part in phi.values()}
    if isinstance(about, dict) and isinstance(model, str) and len(lengths) == 1 and min(lengths) >= 1:
        classes, n_inputs = about.get("classes"), about.get("n_inputs")
        if are_classes(classes) and (n_inputs is None or isinstance(n_inputs, int)):
            columns = columns_from(about.get("columns"))
            return Adaptation(phi, None if classes is None else tuple(classes), model, n_inputs, columns)
    raise ValueError(f"expected an adaptation in {where}, got something else")


def plain_classes(classes: Sequence[Any]) -> list[Any]:
    """Classes as values of JSON.

    Raises:
        ValueError: if one is neither a string nor a number.
    """
    plain = [name.item() if isinstance(name, np.generic) else name for name in classes]
    if not are_classes(plain):
        raise ValueError("expected classes that are strings or numbers, to be saved, got others; name them")
    return plain


def are_classes(classes: Any) -> bool:
    """Whether these are different names of classes, or None."""
    return classes is None or (
        isinstance(classes, list)
        and all(isinstance(name, (str, int, float)) for name in classes)
        and 0 < len(set(classes)) == len(classes)
    )
