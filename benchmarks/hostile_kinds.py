"""The kinds of hostile requests: each is drawn as bytes, or as (method, path, headers, body)."""

from __future__ import annotations

import base64
import functools
import io
import json
import random
from collections.abc import Callable
from typing import Any

from hostile_images import IMAGES
from PIL import Image

Request = tuple[str, str, dict[str, str], bytes]
MOST_IMAGE = 10 << 20
TASK = "TASK"  # in a path: a task that the server has
JSON = {"content-type": "application/json"}


def request(method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    all_headers = {"host": "127.0.0.1", "content-length": str(len(body)), "connection": "close"} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in all_headers.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogatepass") + body


def picture(seed: int, side: int = 28) -> bytes:
    stream = io.BytesIO()
    Image.frombytes("L", (side, side), random.Random(seed).randbytes(side * side)).save(stream, "PNG")
    return stream.getvalue()


def as_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@functools.cache
def _image(name: str) -> bytes:
    """One of the tests of image files; the larger ones, cut off, still fit a body."""
    content: bytes = IMAGES[name][0]()[:MOST_IMAGE]
    return content


def _tasks(content: Any, path: str = "/tasks") -> Request:
    return "POST", path, JSON, json.dumps(content).encode()


def _images_to(draw: random.Random, images: list[str]) -> Request:
    """Images to be learned, or to be asked for."""
    if draw.random() < 0.5:
        return _tasks({"queries": images}, f"/tasks/{TASK}/predict")
    return _tasks({"examples": {"a": images}}, draw.choice(["/tasks", f"/tasks/{TASK}/examples"]))


def damaged(draw: random.Random) -> bytes:
    good = bytearray(request("POST", "/tasks", JSON, b'{"examples": {}}'))
    for _ in range(draw.randint(1, 20)):
        good[draw.randrange(len(good))] = draw.randrange(256)
    return bytes(good)


def noise(draw: random.Random) -> bytes:
    return draw.choice([b"", b"GET ", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\n"]) + draw.randbytes(
        draw.randint(1, 3000)
    )


def cut_short(draw: random.Random) -> bytes:
    whole = request(*_tasks({"examples": {"a": [as_base64(picture(draw.randrange(99)))]}}))
    return whole[: draw.randrange(1, len(whole))]


def long_headers(draw: random.Random) -> Request:
    name, value = draw.choice([("x" * 70_000, "1"), ("x", "y" * 70_000), ("cookie", "a=b; " * 20_000)])
    return "GET", draw.choice(["/", "/tasks"]), {name: value}, b""


def two_lengths(draw: random.Random) -> bytes:
    """The headers by which a request is smuggled past a proxy."""
    headers = draw.choice(
        [
            "content-length: 5\r\ncontent-length: 6",
            "content-length: 5\r\ntransfer-encoding: chunked",
            "transfer-encoding: chunked, identity",
            "content-length: -5",
            "content-length: 5, 5",
            f"content-length: {10 ** draw.randint(8, 40)}",
            "transfer-encoding : chunked",
            "content-length: 0x10",
        ]
    )
    body = draw.choice([b"0\r\n\r\nGET /tasks HTTP/1.1\r\n\r\n", b"hello", b"ffffffffffffffffff\r\n", b"-1\r\n\r\n"])
    return (
        f"POST /tasks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}\r\n\r\n".encode()
        + body
    )


def foreign_host(draw: random.Random) -> Request:
    hosts = [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "",
        "127.0.0.1:x",
        "[::1",
        "10.0.0.1",
        "127.0.0.1@evil.example",
        "evil.example#127.0.0.1",
        "0.0.0.0",
        "2130706433",
        "localhost:99999999",
        "[::2]",
    ]
    return draw.choice(["GET", "POST"]), "/tasks", {"host": draw.choice(hosts)} | JSON, b"{}"


def foreign_origin(draw: random.Random) -> Request:
    origins = [
        "http://evil.example",
        "null",
        "http://127.0.0.1:1",
        "file://",
        "http://localhost",
        "",
        "chrome-extension://x",
    ]
    headers = draw.choice([{"origin": draw.choice(origins)}, {"sec-fetch-site": "cross-site"}])
    return draw.choice(["POST", "PUT"]), "/tasks", headers | JSON, b'{"examples": {}}'


def simple_type(draw: random.Random) -> Request:
    """What a form of any site may send without being asked."""
    kinds = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json", ""]
    headers = {"content-type": draw.choice(kinds)} if draw.random() < 0.8 else JSON | {"content-encoding": "gzip"}
    return "POST", "/tasks", headers, b'{"examples": {"a": []}}'


def other_paths(draw: random.Random) -> Request:
    paths = [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/page/../app.py",
        "/tasks/../model",
        "/static/..%2f..%2fapp.py",
        "/page.css/../../app.py",
        "/tasks/%00",
        "/tasks//predict",
        "/\\..\\..\\x",
        "/.git/config",
        f"/tasks/{'a' * 5000}",
        "/tasks/a%0d%0aset-cookie:x",
        "/?file=/etc/passwd",
        "http://evil.example/",
        "*",
        "/%ff%fe",
    ]
    paths += ["/tasks/" + "%2f" * 200, "/tasks/{name}", "/tasks/__class__", "/page.js%00.png", "/page"]
    return draw.choice(["GET", "POST", "DELETE"]), draw.choice(paths), JSON, b"{}"


def other_methods(draw: random.Random) -> Request:
    methods = ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "BREW", "get", "X" * 500]
    headers = draw.choice([JSON, {}, {"upgrade": "websocket", "connection": "Upgrade"}])
    return draw.choice(methods), draw.choice(["/", "/tasks", "/model", "/health"]), headers, b"{}"


def no_json(draw: random.Random) -> Request:
    bodies = [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\xff\xfe\x00",
        b'{"examples": NaN}',
        b"9" * 100_000,
        b'"\\ud800"',
        b'{"examples": Infinity}',
        b"null",
        b"[]",
        b"0",
        b'"x"',
        b"\xef\xbb\xbf{}",
        b"{}garbage",
        draw.randbytes(500),
    ]
    paths = ["/tasks", f"/tasks/{TASK}/predict", f"/tasks/{TASK}/examples"]
    return "POST", draw.choice(paths), JSON, draw.choice(bodies)


def other_json(draw: random.Random) -> Request:
    image = as_base64(picture(0))
    odd: list[Any] = [
        None,
        True,
        0,
        -1.5,
        1e308,
        10**400,
        "x",
        "",
        [],
        {},
        [[]],
        {"a": {}},
        {"": [image]},
        {"a": image},
    ]
    odd += [{"a": []}, {"a": [None]}, {"a": [[image]]}, {"\ud800": [image]}, {"a\n": [image]}, {"a" * 5000: [image]}]
    odd += [{"__proto__": [1]}, {"a": [{"image": image}]}, {" ": [image]}, {"\u202e": [image]}, {"a": [image], "b": 3}]
    key = draw.choice(["examples", "examples", "queries", "x", "path", "file", "model", "__class__"])
    path = f"/tasks/{TASK}/predict" if key == "queries" else "/tasks"
    return _tasks({key: draw.choice(odd)} | ({"more": 1} if draw.random() < 0.1 else {}), path)


def other_text(draw: random.Random) -> Request:
    """Texts that are no images: paths and addresses among them, which must never be opened."""
    texts = [
        "/etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1:22/",
        "data:image/png;base64,",
        "data:text/html,<script>",
    ]
    texts += [
        "AAAA",
        "====",
        "\u0000",
        "é" * 100,
        "A" * 99_999,
        "../../x.png",
        "data:,",
        as_base64(draw.randbytes(300)),
    ]
    return _images_to(draw, [draw.choice(texts)])


def image_files(draw: random.Random) -> Request:
    """Those of the tests of image files: bombs, damaged and disguised ones."""
    return _images_to(draw, [as_base64(picture(0)), as_base64(_image(draw.choice(list(IMAGES))))])


def damaged_images(draw: random.Random) -> Request:
    stream = io.BytesIO()
    kind = draw.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
    Image.open(io.BytesIO(picture(draw.randrange(9)))).save(stream, kind)
    content = bytearray(stream.getvalue())
    for _ in range(draw.randint(1, 30)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return _images_to(draw, [as_base64(bytes(content))])


def too_many(draw: random.Random) -> Request:
    image = as_base64(picture(0, 2))
    if draw.random() < 0.3:
        return _tasks({"queries": [image] * draw.choice([251, 5000])}, f"/tasks/{TASK}/predict")
    examples: dict[str, Any] = draw.choice(
        [{"a": [image] * 501}, {f"c{i}": [image] for i in range(draw.choice([6, 101, 5000]))}, {"a": [""] * 100_000}]
    )
    return _tasks({"examples": examples})


def too_large(draw: random.Random) -> bytes:
    size = 17 << 20
    if draw.random() < 0.5:  # said in advance, and not sent
        return request("POST", "/tasks", JSON | {"content-length": str(size)}, b"{")
    whole = request("POST", "/tasks", JSON | {"transfer-encoding": "chunked"}, b"").replace(
        b"content-length: 0\r\n", b""
    )
    return whole + (b"100000\r\n" + bytes(1 << 20) + b"\r\n") * 17 + b"0\r\n\r\n"


def other_tasks(draw: random.Random) -> Request:
    name = draw.choice(["x", "0", "None", "..", "%00", "a" * 300, "%F0%9F%98%80", "' OR 1=1 --".replace(" ", "%20")])
    method, end = draw.choice([("GET", ""), ("DELETE", ""), ("PUT", ""), ("POST", "/predict"), ("POST", "/examples")])
    return method, f"/tasks/{name}{end}", JSON, json.dumps({"queries": [as_base64(picture(0))]}).encode()


KINDS: dict[str, Callable[[random.Random], bytes | Request]] = {
    "HTTP with changed bytes": damaged,
    "noise": noise,
    "cut short": cut_short,
    "long headers": long_headers,
    "contradictory lengths": two_lengths,
    "foreign hosts": foreign_host,
    "foreign origins": foreign_origin,
    "types of a form": simple_type,
    "other paths": other_paths,
    "other methods": other_methods,
    "no JSON": no_json,
    "other JSON": other_json,
    "texts instead of images": other_text,
    "hostile image files": image_files,
    "images with changed bytes": damaged_images,
    "too many": too_many,
    "too large": too_large,
    "unknown tasks": other_tasks,
}
UNFINISHED = ("HTTP with changed bytes", "noise", "cut short", "contradictory lengths")
