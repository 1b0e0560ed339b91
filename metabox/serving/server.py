"""Listens: uvicorn with limits on slow clients and on connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import sys
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from metabox.model import Model
from metabox.serving.app import make_app
from metabox.serving.guard import HEADERS, LOOPBACK
from metabox.serving.limits import Limits

KEEP_ALIVE = 5  # seconds


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one.

    Raises:
        ValueError: if the port is no port, or the address is taken or none of this machine.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"expected a port from 0 to 65535, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ValueError(
            f"expected an address of this machine that is free, got {host}, port {port} ({error.strerror}); "
            "use another --port, or stop the other program"
        ) from error


def make_server(model: Model, host: str = "127.0.0.1", limits: Limits | None = None) -> uvicorn.Server:
    """A server that runs until its `should_exit`, by `run(sockets=[listen(host, port)])`."""
    limits = limits or Limits()
    config = uvicorn.Config(
        make_app(model, limits, host),
        http=_protocol(limits),
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_level=logging.ERROR,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def serve(model: Model, host: str = "127.0.0.1", port: int = 8000, limits: Limits | None = None) -> None:
    """Serve a model until interrupted.

    Raises:
        ValueError: if it is no model to serve, or the address cannot be listened on.
    """
    server = make_server(model, host, limits)
    with listen(host, port) as listening:
        if host not in LOOPBACK:
            print(
                f"metabox: warning: {host} may be reached by other machines, and asks nobody who they are",
                file=sys.stderr,
            )
        shown = f"[{host}]" if ":" in host else host
        name = model.name or type(model.learner).__name__
        print(f"{name}: http://{shown}:{listening.getsockname()[1]}/ (Ctrl+C stops it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # as said
            server.run(sockets=[listening])


def _protocol(limits: Limits) -> type[asyncio.Protocol]:
    """The protocol of a connection, with these limits."""

    class Limited(H11Protocol):
        _slow: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self._refuse(429, f"expected at most {limits.connections} connections at a time")
            else:
                self._watch()

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._slow is not None:
                self._slow.cancel()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Give the headers of a request their time, from the first moment in which none is being answered."""
            if self.cycle is not None and not self.cycle.response_complete:
                if self._slow is not None:
                    self._slow.cancel()
                self._slow = None
            elif self._slow is None:
                self._slow = self.loop.call_later(limits.header_seconds, self._too_slow)

        def _too_slow(self) -> None:
            if not self.transport.is_closing():
                self._refuse(408, f"expected a request within {limits.header_seconds:g} s")

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, "expected a request in HTTP/1.1, got something else")

        def _refuse(self, status: int, line: str) -> None:
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                body = json.dumps({"error": line}).encode() + b"\n"
                headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
                self.transport.write(
                    (self.conn.send(h11.Response(status_code=status, headers=list((HEADERS | headers).items()))) or b"")
                    + (self.conn.send(h11.Data(data=body)) or b"")
                    + (self.conn.send(h11.EndOfMessage()) or b"")
                )
            self.transport.close()

    return Limited
