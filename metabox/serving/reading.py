"""From the JSON of a request to what a model takes; whatever is wrong with it is refused in one line."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from metabox.checks import shown
from metabox.data.decode import open_image
from metabox.model import Model
from metabox.serving.limits import Limits, Refused


def parsed(body: bytes, wanted: Sequence[str]) -> dict[str, Any]:
    """A JSON object with these keys and no others.

    Raises:
        Refused: if the body is none.
    """
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"expected a body of JSON, got something else ({str(error)[:100]})") from error
    names = " and ".join(repr(name) for name in wanted)
    if not isinstance(content, dict) or set(content) != set(wanted):
        got = f"the keys {shown(sorted(content))}" if isinstance(content, dict) else shown(content)
        raise Refused(422, f"expected a JSON object with {names}, got {got}")
    return content


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


class Reader:
    """Reads examples and queries of a model; `inputs` takes long, and belongs into a thread."""

    def __init__(self, model: Model, limits: Limits) -> None:
        self.model, self._limits = model, limits
        self.of_classes = model.spec.target.n_classes is not None
        self.of_images = len(model.spec.x_shape) == 3
        self.most_classes = min(limits.classes, model.most_classes or limits.classes)

    def examples(self, body: bytes) -> tuple[list[Any], list[Any]]:
        """Inputs and targets of a body `{"examples": {class: [input, ...]}}`, or `{"x": [...], "y": [...]}`.

        Raises:
            Refused: if it is no such body, or has too many.
        """
        if self.of_classes:
            x, y = self._named(parsed(body, ["examples"])["examples"])
        else:
            content = parsed(body, ["x", "y"])
            x, y = content["x"], content["y"]
            if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y):
                raise Refused(422, "expected x and y as lists of the same length")
        if not 1 <= len(x) <= self._limits.examples:
            raise Refused(422, f"expected 1 to {self._limits.examples} examples, got {len(x)}")
        return x, y

    def _named(self, given: Any) -> tuple[list[Any], list[Any]]:
        if not isinstance(given, dict):
            raise Refused(422, f"expected examples as an object, class: list of examples, got {shown(given)}")
        self.check_classes(list(given))
        x, y = [], []
        for name, items in given.items():
            if not isinstance(items, list) or not items:
                raise Refused(422, f"expected a list of at least one example for the class {name!r}")
            x += items
            y += [name] * len(items)
        return x, y

    def check_classes(self, names: Sequence[str]) -> None:
        """
        Raises:
            Refused: if these are too many classes, or one has no printable name.
        """
        if not 1 <= len(names) <= self.most_classes:
            raise Refused(422, f"expected 1 to {self.most_classes} classes for this model, got {len(names)}")
        for name in names:
            if not (0 < len(name) <= self._limits.name_length and name.isprintable() and name.strip()):
                most = self._limits.name_length
                raise Refused(
                    422, f"expected classes with printable names of 1 to {most} characters, got {name[:40]!r}"
                )

    def queries(self, body: bytes) -> list[Any]:
        """The inputs of a body `{"queries": [input, ...]}`.

        Raises:
            Refused: if it is no such body, or has too many.
        """
        queries = parsed(body, ["queries"])["queries"]
        if not isinstance(queries, list) or not 1 <= len(queries) <= self._limits.queries:
            got = len(queries) if isinstance(queries, list) else shown(queries)
            raise Refused(422, f"expected queries as a list of 1 to {self._limits.queries} inputs, got {got}")
        return queries

    def inputs(self, given: list[Any]) -> Tensor:
        """Inputs `[N, *x_shape]` as the model takes them, on the CPU.

        Raises:
            Refused: if one is no such input, or they take too long.
        """
        try:
            if not self.of_images:
                return self.model.inputs(given)
            begin, left = time.monotonic(), self._limits.request_pixels
            x = torch.empty(len(given), *self.model.spec.x_shape, dtype=torch.uint8)
            for number, item in enumerate(given):
                if time.monotonic() - begin > self._limits.seconds:  # nobody waits for it any longer
                    raise Refused(408, f"expected images that are read within {self._limits.seconds:g} s")
                left -= self._read(item, number, min(left, self._limits.image_pixels), x[number])
            return x
        except (ValueError, OverflowError, TypeError) as error:
            raise Refused(422, str(error)) from error
        except MemoryError as error:
            raise Refused(413, "expected inputs that fit the memory of the server") from error

    def _read(self, item: Any, number: int, most: int, into: Tensor) -> int:
        """Read an image, and return how many pixels it had."""
        if not isinstance(item, str):
            raise ValueError(f"expected images as base64 text, got as number {number}: {shown(item)}")
        head, comma, text = item.partition(",")
        text = text if comma and head.startswith("data:") and head.endswith(";base64") else item
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"expected images as base64 text, got as number {number} something else") from error
        try:
            image = open_image(content, most)
        except ValueError as error:
            raise ValueError(f"expected images, got as number {number}: {error}") from error
        into[:] = self.model.inputs([image])[0].cpu()
        return int(image.width * image.height)
