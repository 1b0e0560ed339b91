"""A model of drawings, and a server of it on a free port of this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("uvicorn", reason="needs the extra serve")

from metabox.data.preprocessing import Preprocessing
from metabox.learners import InContext
from metabox.model import Model
from metabox.nn.backbones import Flatten
from metabox.serving.limits import Limits
from metabox.serving.server import listen, make_server
from metabox.targets import Classes, TaskSpec

LIMITS = Limits(
    body_bytes=1 << 20,
    image_pixels=1 << 18,
    request_pixels=1 << 20,
    examples=60,
    queries=20,
    tasks=20,
    kept_bytes=1 << 22,
    header_seconds=2.0,
    body_seconds=2.0,
)


@pytest.fixture(scope="session")
def model() -> Model:
    """It has learned nothing, but tells drawings apart as attention by cosine does."""
    torch.manual_seed(0)
    learner = InContext(TaskSpec((1, 28, 28), Classes(5)), backbone=Flatten, width=32, depth=1)
    return Model(learner, Preprocessing(1, 28, inverted=True), name="drawings")


@pytest.fixture(scope="session")
def port(model: Model) -> Iterator[int]:
    server = make_server(model, "127.0.0.1", LIMITS)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()
