"""Refuses requests before they are read: foreign ones, too large ones, too slow ones, and too many at a time."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import sys
import traceback
from collections.abc import Awaitable
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metabox.serving.limits import Limits, Refused

LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY = ("0.0.0.0", "::", "")
MOST_HEADERS = 1 << 14
FAILED = "the server failed; its terminal says why"
CHANGING = ("POST", "PUT", "DELETE", "PATCH")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer in ASCII, which can hold whatever a request sent."""
    text = json.dumps(content, allow_nan=False)
    return Response(text + "\n", status, headers, media_type="application/json")


def refusal(status: int, line: str) -> Response:
    """The answer to a refused request."""
    line = " ".join(line.split())
    return as_json({"error": line if len(line) <= 500 else line[:500] + "..."}, status)


class Guard:
    """Middleware around the application of a server.

    Args:
        app: is called with the whole body at hand.
        limits: of the server.
        host: on which it listens.
    """

    def __init__(self, app: ASGIApp, limits: Limits, host: str) -> None:
        self._app, self._limits = app, limits
        self._any = host in ANY
        own = (host, socket.gethostname()) if self._any else (host,)
        self._hosts = {name.lower() for name in (*LOOPBACK, *own) if name}
        self._busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answering = _Answering(send)
        try:
            await self._serve(scope, receive, answering)
        except Refused as refused:
            await answering.finish(refusal(refused.status, str(refused)), scope, receive)
        except ConnectionError:  # the client has gone
            return
        except Exception:
            traceback.print_exc(file=sys.stderr)
            await answering.finish(refusal(500, FAILED), scope, receive)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        if sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope["path"]) > MOST_HEADERS:
            raise Refused(431, f"expected a path and headers of at most {MOST_HEADERS:,} bytes")
        self._check_origin(scope["method"], headers)
        self._check_type(scope["method"], headers)
        if self._busy >= self._limits.requests:
            raise Refused(429, f"expected at most {self._limits.requests} requests at a time; try again in a moment")
        self._busy += 1
        try:
            most = self._limits.body_seconds
            body = await _in_time(_body(receive, headers, self._limits.body_bytes), most, "the body within")
            await _in_time(self._app(scope, _replay(body, receive), send), self._limits.seconds, "work of at most")
        finally:
            self._busy -= 1

    def _check_origin(self, method: str, headers: dict[str, list[str]]) -> None:
        """Refuse pages of other sites, and names of other machines that lead here (DNS rebinding)."""
        hosts = headers.get("host", [])
        if len(hosts) != 1:
            raise Refused(400, f"expected one header Host, got {len(hosts)}")
        if not self._is_own(hosts[0]):
            raise Refused(403, f"expected a Host of this server, got {_shown(hosts[0])}")
        for origin in headers.get("origin", []):
            if origin.lower() not in (f"http://{hosts[0].lower()}", f"https://{hosts[0].lower()}"):
                raise Refused(403, f"expected requests of this server's own page, got the origin {_shown(origin)}")
        if method in CHANGING and set(headers.get("sec-fetch-site", [])) - {"same-origin", "none"}:
            raise Refused(403, "expected requests of this server's own page, got one from another site")

    def _is_own(self, host: str) -> bool:
        name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        name, port = (name, port) if colon else (host, "")
        if port and not (port.isascii() and port.isdigit() and len(port) <= 5):
            return False
        name = name[1:-1] if name[:1] == "[" and name[-1:] == "]" else name
        return name.lower() in self._hosts or (self._any and _is_address(name))

    def _check_type(self, method: str, headers: dict[str, list[str]]) -> None:
        if method in ("POST", "PUT", "PATCH"):  # other types can be sent by a form of any site
            kinds = headers.get("content-type", [])
            if len(kinds) != 1 or kinds[0].partition(";")[0].strip().lower() != "application/json":
                raise Refused(415, "expected a body with content-type: application/json")
        if set(headers.get("content-encoding", [])) - {"identity"}:
            raise Refused(415, "expected a body without content-encoding")


class _Answering:
    """`send` with the headers that every answer has."""

    def __init__(self, send: Send) -> None:
        self._send, self._started = send, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            message = {**message, "headers": [*message.get("headers", []), *_RAW_HEADERS]}
        await self._send(message)

    async def finish(self, response: Response, scope: Scope, receive: Receive) -> None:
        if not self._started:
            await response(scope, receive, self)


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


async def _body(receive: Receive, headers: dict[str, list[str]], most: int) -> bytes:
    """The whole body; one that is too large is refused as soon as this is known."""
    line = f"expected a body of at most {most:,} bytes; send fewer or smaller images"
    for length in headers.get("content-length", []):
        if not length.isdigit() or int(length[:20]) > most:
            raise Refused(413, line)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionError("the client has gone")
        body += message.get("body", b"")
        if len(body) > most:
            raise Refused(413, line)
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _in_time(work: Awaitable[Any], seconds: float, what: str) -> Any:
    try:
        return await asyncio.wait_for(work, seconds)
    except (asyncio.TimeoutError, TimeoutError) as error:
        raise Refused(408, f"expected {what} {seconds:g} s; send less at a time") from error


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _shown(text: str) -> str:
    return repr(text[:60])
