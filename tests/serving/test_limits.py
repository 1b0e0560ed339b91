"""Slow clients are cut off, too many are sent away, and queries that wait share a pass."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from PIL import Image

from metabox.learners import CNP, InContext
from metabox.model import Model
from metabox.serving.app import Server, ink_of, make_app
from metabox.serving.guard import Guard
from metabox.serving.limits import Limits
from metabox.serving.server import listen, make_server
from metabox.serving.worker import Worker
from metabox.targets import Binary, Classes, Reals, TaskSpec

SLOW = Limits(header_seconds=0.3, body_seconds=0.3)
FEW = Limits(header_seconds=600, body_seconds=600, requests=1, connections=3)


@contextmanager
def served(model: Model, limits: Limits) -> Iterator[int]:
    server = make_server(model, limits=limits)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def answer_to(port: int, *parts: bytes, pause: float = 0.0) -> tuple[int, str]:
    """The status and the line of the answer to bytes that come with pauses; 0 if there is none."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        try:
            for part in parts:
                client.sendall(part)
                time.sleep(pause)
            answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
        except ConnectionError:
            return 0, ""
    head, _, body = answer.partition(b"\r\n\r\n")
    return (int(head.split()[1]), json.loads(body)["error"]) if head else (0, "")


POST = b"POST /tasks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"


def test_a_client_that_sends_no_headers_or_no_body_is_cut_off(model: Model) -> None:
    with served(model, SLOW) as port:
        assert answer_to(port) == (408, "expected a request within 0.3 s")
        assert answer_to(port, b"GET / HTTP/1.1\r\nx: ")[0] == 408
        letters = [bytes([letter]) for letter in b"GET / HTTP/1.1\r\n"]
        assert answer_to(port, *letters, pause=0.05)[0] in (408, 0), "one byte at a time makes no difference"
        status, line = answer_to(port, POST + b"content-length: 10\r\n\r\n{")
    assert (status, "the body within 0.3 s" in line) == (408, True)


def test_too_many_connections_and_requests_are_sent_away(model: Model) -> None:
    with served(model, FEW) as port, ExitStack() as stack:
        first = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        first.sendall(POST + b"content-length: 10\r\n\r\n{")
        while (answer := answer_to(port, POST + b"content-length: 2\r\n\r\n{}"))[0] == 422:
            pass  # the first has not been read yet
        assert answer == (429, "expected at most 1 requests at a time; try again in a moment")
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert answer_to(port) == (429, "expected at most 3 connections at a time")


def test_work_that_takes_too_long_is_given_up(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "adapt", lambda *_: time.sleep(0.5))
    monkeypatch.setattr("metabox.serving.reading.open_image", lambda *_: Image.new("L", (9, 9)))
    with served(model, Limits(seconds=0.1)) as port:
        body = b'{"examples": {"a": ["AAAA"]}}'
        status, line = answer_to(port, POST + b"content-length: %d\r\n\r\n" % len(body) + body)
    assert (status, "work of at most 0.1 s" in line) == (408, True)


def test_a_failure_of_the_server_is_said_in_one_line_and_printed(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("metabox.serving.app.Store.all", broken)
    with served(model, Limits()) as port:
        get = b"GET /tasks HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        assert answer_to(port, get) == (500, "the server failed; its terminal says why")
    assert "RuntimeError: a bug" in capsys.readouterr().err


def test_queries_that_wait_share_a_pass_and_a_bad_one_among_them_fails_alone(model: Model) -> None:
    images = torch.randint(256, (4, 1, 28, 28), dtype=torch.uint8)
    adaptations = [model.adapt(images + i, list("abab")) for i in range(6)]
    worker = Worker(model)

    async def ask() -> list[object]:
        hold = threading.Event()
        first = asyncio.ensure_future(worker.run(hold.wait))
        waiting = [asyncio.ensure_future(worker.predict(a, images[:1])) for a in adaptations]
        waiting.append(asyncio.ensure_future(worker.predict(adaptations[0], torch.zeros(1, 2))))
        await asyncio.sleep(0)
        hold.set()
        await first
        return await asyncio.gather(*waiting, return_exceptions=True)

    *answers, bad = asyncio.run(ask())
    assert worker.passes == 1
    worker.stop()
    assert isinstance(bad, ValueError)
    for adaptation, answer in zip(adaptations, answers, strict=True):
        torch.testing.assert_close(answer, model.predict(adaptation, images[:1]), rtol=0, atol=1e-5)


def test_hosts_are_those_of_the_address_that_is_listened_on() -> None:
    def own(host: str, name: str) -> bool:
        return Guard(lambda *_: None, Limits(), host)._is_own(name)  # type: ignore[arg-type,return-value]

    assert own("127.0.0.1", "LOCALHOST:8000")
    assert own("192.168.1.2", "192.168.1.2")
    assert not own("192.168.1.2", "192.168.1.3")
    assert own("0.0.0.0", "192.168.1.3:80")  # an address is no name that could be led elsewhere
    assert own("::", "[fe80::1]:80")
    assert not own("0.0.0.0", "evil.example")
    assert not own("127.0.0.1", "127.0.0.1:8o")
    assert not own("127.0.0.1", "")


def test_a_model_of_real_numbers_answers_mean_and_deviation_and_others_are_refused() -> None:
    torch.manual_seed(0)
    model = Model(CNP(TaskSpec((1,), Reals(1), scale="support")))
    server = Server(model, Limits())
    x, y = server.reader.examples(b'{"x": [[0], [1], [2]], "y": [5, 6, 7]}')
    adaptation = model.adapt(server.reader.inputs(x), y)
    rows = server._answers(type("Task", (), {"adaptation": adaptation}), model.predict(adaptation, [[0.5]]))  # type: ignore[arg-type]
    server.stop()
    assert set(rows["predictions"][0]) == {"mean", "std"}
    with pytest.raises(ValueError, match="expected a model of classes or of real numbers"):
        make_app(Model(CNP(TaskSpec((1,), Binary(2)))))
    with pytest.raises(ValueError, match="needs a descriptor"):
        make_app(Model(CNP(TaskSpec((1,), Reals(1), descriptor_size=2))))


def test_drawings_have_the_ink_that_the_model_was_trained_on(model: Model) -> None:
    assert ink_of(model) == "dark"  # its preprocessing inverts
    assert ink_of(Model(InContext(TaskSpec((1, 28, 28), Classes(2))))) == "light"
    assert ink_of(Model(InContext(TaskSpec((3, 32, 32), Classes(2))))) is None


@pytest.mark.parametrize(
    ("host", "port", "says"), [("127.0.0.1", 70_000, "0 to 65535"), ("192.0.2.1", 0, "of this machine")]
)
def test_an_address_that_cannot_be_had_is_refused(host: str, port: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        listen(host, port)


def test_a_port_that_is_taken_is_refused() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(ValueError, match="use another --port"):
        listen("127.0.0.1", taken.getsockname()[1])
