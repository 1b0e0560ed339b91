"""What a server takes at most, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass, fields

from metabox.checks import check_fields
from metabox.ranges import Count, Positive


@dataclass(frozen=True)
class Limits:
    """Limits of a server; a request beyond one is refused, and says which.

    Args:
        body_bytes: of a request.
        image_pixels: of one image, before it is decoded.
        request_pixels: of all images of a request.
        examples: of a task.
        queries: of a request.
        classes: of a task, if the model itself has no lower limit.
        name_length: characters of a class's name.
        tasks: kept at a time; the least recently used one is forgotten for a new one.
        kept_bytes: of what is kept of all tasks, likewise.
        requests: at a time.
        connections: at a time.
        header_seconds: until the headers of a request have come.
        body_seconds: until its body has come.
        seconds: until it is answered, once its body has come.

    Raises:
        ValueError: if one is not positive.
    """

    body_bytes: Count = 16 << 20
    image_pixels: Count = 1 << 24
    request_pixels: Count = 1 << 26
    examples: Count = 500
    queries: Count = 250
    classes: Count = 100
    name_length: Count = 100
    tasks: Count = 1_000
    kept_bytes: Count = 1 << 30
    requests: Count = 32
    connections: Count = 200
    header_seconds: Positive = 10.0
    body_seconds: Positive = 20.0
    seconds: Positive = 30.0

    def __post_init__(self) -> None:
        check_fields(self)

    def as_json(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Refused(Exception):
    """A request that is not served: the status of the answer, and its one line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status
