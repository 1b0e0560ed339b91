"""Tasks as JSON: learned, asked, added to, replaced and forgotten; whatever is wrong is refused in one line."""

from __future__ import annotations

import base64
import http.client
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metabox.model import Model

Ask = Callable[..., tuple[int, Any]]


def encoded(pixels: np.ndarray, kind: str = "PNG") -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return base64.b64encode(stream.getvalue()).decode()


def drawing(vertical: bool, at: int = 14) -> np.ndarray:
    pixels = np.full((28, 28), 255, np.uint8)
    (pixels[:, at - 2 : at + 2] if vertical else pixels[at - 2 : at + 2])[:] = 0
    return pixels


BAR, DASH = encoded(drawing(True)), encoded(drawing(False))
TWO = {"examples": {"bar": [BAR], "dash": [DASH]}}
HEADERS = {"content-type": "application/json"}


@pytest.fixture
def ask(port: int) -> Ask:
    """Sends a request and returns status and JSON; checks what holds for every answer."""

    def send(method: str, path: str, content: Any = None, headers: dict[str, str] = HEADERS) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = content if isinstance(content, (bytes, type(None))) else json.dumps(content)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        found = json.loads(text) if text and "json" in answer.headers["content-type"] else text
        if answer.status >= 400:
            assert set(found) == {"error"}
            assert "\n" not in found["error"]
        return answer.status, found

    return send


def test_a_task_is_learned_asked_added_to_replaced_and_forgotten(ask: Ask, model: Model) -> None:
    status, task = ask("POST", "/tasks", TWO)
    assert (status, task["classes"], task["forgotten"]) == (201, {"bar": 1, "dash": 1}, [])
    path = f"/tasks/{task['id']}"
    status, found = ask("POST", f"{path}/predict", {"queries": [DASH, BAR]})
    assert (status, found["classes"]) == (200, ["bar", "dash"])
    assert [row["class"] for row in found["predictions"]] == ["dash", "bar"]
    images = [Image.fromarray(drawing(vertical)) for vertical in (True, False)]
    wanted = model.predict(model.adapt(images, ["bar", "dash"], ["bar", "dash"]), [images[1]])[0]
    got = torch.tensor(list(found["predictions"][0]["probabilities"].values()))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    assert ask("POST", f"{path}/examples", {"examples": {"blank": [encoded(np.full((9, 9), 255, np.uint8))]}})[0] == 200
    assert ask("GET", path)[1]["classes"] == {"bar": 1, "dash": 1, "blank": 1}
    assert len(ask("POST", f"{path}/predict", {"queries": [DASH]})[1]["predictions"][0]["probabilities"]) == 3
    assert ask("PUT", path, {"examples": {"x": [BAR, BAR]}})[1]["classes"] == {"x": 2}
    assert task["id"] in [row["id"] for row in ask("GET", "/tasks")[1]["tasks"]]
    assert ask("DELETE", path) == (204, b"")
    for method, end in (("GET", ""), ("DELETE", ""), ("PUT", ""), ("POST", "/predict"), ("POST", "/examples")):
        assert ask(method, path + end, TWO)[0] == 404


def test_health_the_model_and_every_file_of_the_page_are_there(ask: Ask) -> None:
    assert ask("GET", "/health")[1]["status"] == "ok"
    about = ask("GET", "/model")[1]
    assert (about["name"], about["ink"], about["limits"]["classes"]) == ("drawings", "dark", 5)
    page = ask("GET", "/")[1].decode()
    for word in (b"page.css", b"page.js"):
        assert word.decode() in page
        assert ask("GET", f"/{word.decode()}")[0] == 200
    assert b"pad.js" in ask("GET", "/page.js")[1]
    assert ask("GET", "/pad.js")[0] == 200
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


LARGE = encoded(np.zeros((1000, 1000), np.uint8))
BAD: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, "expected a body of JSON"),
    "deep JSON": (b"[" * 100_000, 400, "expected a body of JSON"),
    "NaN": (b'{"examples": NaN}', 400, "NaN is no number"),
    "no object": ([], 422, "expected a JSON object with 'examples'"),
    "another key": ({"queries": []}, 422, "got the keys"),
    "a list of examples": ({"examples": [BAR]}, 422, "class: list of examples"),
    "no class": ({"examples": {}}, 422, "expected 1 to 5 classes for this model, got 0"),
    "more classes than the model has": ({"examples": {str(i): [BAR] for i in range(6)}}, 422, "1 to 5 classes"),
    "a class without examples": ({"examples": {"a": []}}, 422, "at least one example for the class 'a'"),
    "too many examples": ({"examples": {"a": [BAR] * 61}}, 422, "expected 1 to 60 examples, got 61"),
    "a class without a name": ({"examples": {"": [BAR]}}, 422, "printable names"),
    "half a character": (b'{"examples": {"\\ud800": ["x"]}}', 422, "printable names"),
    "a number": ({"examples": {"a": [1]}}, 422, "base64 text"),
    "a path": ({"examples": {"a": ["/etc/passwd"]}}, 422, "expected images"),
    "no base64": ({"examples": {"a": ["?"]}}, 422, "base64 text"),
    "no image": ({"examples": {"a": ["AAAA"]}}, 422, "got as number 0"),
    "an image of too many pixels": ({"examples": {"a": [LARGE]}}, 422, "1000 x 1000 pixels, more than 262,144"),
    "too many pixels in all": (
        {"examples": {"a": [encoded(np.zeros((500, 500), np.uint8))] * 5}},
        422,
        "as number 4: 500 x 500 pixels",
    ),
    "too many bytes": (b" " * (1 << 20) + b"  ", 413, "at most 1,048,576 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_task_is_refused(ask: Ask, name: str) -> None:
    content, status, words = BAD[name]
    got, answer = ask("POST", "/tasks", content)
    assert (got, words in answer["error"]) == (status, True), answer


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"queries": []}, "1 to 20"),
        ({"queries": [BAR] * 21}, "got 21"),
        ({"queries": ["AAAA"]}, "as number 0"),
        ({}, "got"),
    ],
)
def test_what_is_no_query_is_refused(ask: Ask, content: Any, words: str) -> None:
    name = ask("POST", "/tasks", TWO)[1]["id"]
    status, answer = ask("POST", f"/tasks/{name}/predict", content)
    assert (status, words in answer["error"]) == (422, True), answer


FOREIGN: dict[str, tuple[str, dict[str, str], int]] = {
    "another host": ("GET", {"host": "evil.example"}, 403),
    "a host that begins like this one": ("GET", {"host": "127.0.0.1.evil.example"}, 403),
    "an address of another machine": ("GET", {"host": "10.0.0.1"}, 403),
    "another site": ("POST", HEADERS | {"origin": "http://evil.example"}, 403),
    "another port of this machine": ("POST", HEADERS | {"origin": "http://127.0.0.1:1"}, 403),
    "a page without an origin": ("POST", HEADERS | {"origin": "null"}, 403),
    "another site, said by the browser": ("POST", HEADERS | {"sec-fetch-site": "cross-site"}, 403),
    "a form": ("POST", {"content-type": "text/plain"}, 415),
    "packed": ("POST", HEADERS | {"content-encoding": "gzip"}, 415),
    "endless headers": ("GET", {"cookie": "a" * 30_000}, 431),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_requests_from_elsewhere_are_refused(ask: Ask, name: str) -> None:
    method, headers, status = FOREIGN[name]
    assert ask(method, "/tasks", None if method == "GET" else TWO, headers)[0] == status


def test_the_own_page_and_other_names_of_this_machine_are_served(ask: Ask, port: int) -> None:
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
        headers = HEADERS | {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
        assert ask("POST", "/tasks", TWO, headers)[0] == 201


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/app.py", "/page/index.html", "/app.py", "/tasks/", "//"]
)
def test_no_other_file_is_served(ask: Ask, path: str) -> None:
    assert ask("GET", path)[0] == 404


def test_the_least_recently_used_tasks_are_forgotten(ask: Ask) -> None:
    names = [ask("POST", "/tasks", TWO)[1]["id"] for _ in range(20)]
    assert ask("GET", f"/tasks/{names[0]}")[0] == 200  # so it was used
    assert ask("POST", "/tasks", TWO)[1]["forgotten"] == [names[1]]
    assert ask("GET", f"/tasks/{names[0]}")[0] == 200
    assert ask("GET", "/health")[1]["tasks"] == 20
