"""Hostile requests to a server of a small model: each must be answered by one readable line of JSON, or be cut off.

    python benchmarks/hostile_requests.py                # 10,000 requests, some minutes on one core
    python benchmarks/hostile_requests.py --requests 200 --out x.json

The server runs in a process of its own, by `metabox serve`. The requests are drawn from the kinds below with a seed:
damaged HTTP, foreign hosts and origins, other paths and methods, bodies that are no JSON or another JSON, images that
are none, that unpack to much or that are taken from the tests of image files, too many of all, and clients that stop
in the middle. After each hundred, a task is learned and asked as a user would, and the answer must be that of the
start. Answers of 2xx are right for some, such as an odd but whole image. Writes results/hostile-requests.json.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from hostile_kinds import KINDS, TASK, UNFINISHED, as_base64, picture, request

from metabox.data.preprocessing import Preprocessing
from metabox.files import write_json
from metabox.learners import InContext
from metabox.model import Model
from metabox.targets import Classes, TaskSpec
from metabox.training.environment import collect_environment

RESULTS = Path(__file__).parent / "results" / "hostile-requests.json"
JOBS = [{"writes": "hostile-requests.json", "tier": "quick", "minutes": 6}]
PATIENCE = 60.0
EVERY = 100
GOES_AFTER = 0.03  # seconds
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[int, subprocess.Popen[str], Path]]:
    """The port of a server, its process, and the file of what it wrote to the terminal."""
    torch.manual_seed(0)
    model = Model(InContext(TaskSpec((1, 28, 28), Classes(5)), width=32, depth=1), Preprocessing(1, 28, inverted=True))
    model.save(folder / "model.metabox")
    command = [sys.executable, "-m", "metabox", "serve", "model.metabox", "--port", "0"]
    errors = folder / "stderr.txt"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
            if not found:
                raise RuntimeError(f"the server did not start: {errors.read_text()}")
            yield int(found[1]), process, errors
        finally:
            process.terminate()


def send(port: int, content: bytes, unfinished: bool) -> tuple[str, str]:
    """The status of the answer and its body; "cut off" if the server only closed, "hangs" if it did neither.

    unfinished: whether it may be no whole request, after which the client goes.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        answer = bytearray()
        with contextlib.suppress(ConnectionError):  # it may answer and close before it has read everything
            connection.sendall(content)
        try:
            if unfinished and not select.select([connection], [], [], GOES_AFTER)[0]:
                connection.shutdown(socket.SHUT_WR)
            while not _is_whole(answer) and (part := connection.recv(1 << 16)):
                answer += part
        except TimeoutError:
            return "hangs", ""
        except OSError:  # the other side has closed
            pass
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    status, length = re.match(rb"HTTP/1\.1 (\d{3})", head), LENGTH.search(head)
    body = body[: int(length[1])] if length else body
    return (status[1].decode() if status else "cut off"), body.decode("utf-8", "replace")


def _is_whole(answer: bytearray) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = LENGTH.search(head)
    return bool(end and (b" 204 " in head[:16] or (length and len(body) >= int(length[1]))))


def judged(status: str, body: str) -> bool:
    """Whether an answer is as it should be: 2xx, nothing at all, or 4xx with one line of JSON."""
    if status == "cut off" or status.startswith("2"):
        return True
    try:
        line = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return status.startswith("4") and isinstance(line, str) and 0 < len(line) <= 600 and "\n" not in line


def as_user(port: int) -> tuple[str, list[float]]:
    """Learn two drawings and ask for one of them: the task, and the probabilities."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    headers = {"content-type": "application/json"}

    def ask(method: str, path: str, content: Any = None) -> Any:
        connection.request(method, path, None if content is None else json.dumps(content), headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"a good request was refused: {answer.status} {body[:200]!r}")
        return json.loads(body) if body else None

    images = [as_base64(picture(seed)) for seed in (1, 2)]
    name = ask("POST", "/tasks", {"examples": {"a": images[:1], "b": images[1:]}})["id"]
    found = ask("POST", f"/tasks/{name}/predict", {"queries": images[:1]})["predictions"][0]["probabilities"]
    connection.close()
    return name, [found["a"], found["b"]]


def measure(n: int, seed: int = 0) -> dict[str, Any]:
    """A row for each kind, all answers that were not right, and whether the server was as good as new in the end."""
    draw, names = random.Random(seed), list(KINDS)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    slowest: dict[str, float] = defaultdict(float)
    wrong = []
    with tempfile.TemporaryDirectory() as name, served(Path(name)) as (port, process, errors):
        before, user = set(Path(name).rglob("*")), []
        for number in range(n):
            if number % EVERY == 0:
                task, answer = as_user(port)
                user.append(answer)
            kind = names[number % len(names)]
            content = KINDS[kind](draw)
            whole = (
                content if isinstance(content, bytes) else request(*content).replace(TASK.encode(), task.encode(), 1)
            )
            begin = time.monotonic()
            status, body = send(port, whole, kind in UNFINISHED)
            slowest[kind] = max(slowest[kind], time.monotonic() - begin)
            counts[kind][status] += 1
            if not judged(status, body):
                wrong.append({"kind": kind, "status": status, "body": body[:300], "sent": repr(content)[:300]})
            if number % EVERY == EVERY - 1:
                print(f"{number + 1} requests, {len(wrong)} answered wrong", file=sys.stderr, flush=True)
        user.append(as_user(port)[1])
        alive, terminal = process.poll() is None, errors.read_text()
        written = [path.name for path in set(Path(name).rglob("*")) - before]
    rows = [
        {
            "kind": kind,
            "requests": sum(c.values()),
            "answers": dict(sorted(c.items())),
            "slowest_s": round(slowest[kind], 2),
        }
        for kind, c in counts.items()
    ]
    return {
        "hostile_requests": rows,
        "requests": n,
        "answered_wrong": wrong,
        "tasks_of_a_user_between": len(user),
        "answers_to_the_user_unchanged": all(row == user[0] for row in user),
        "server_alive": alive,
        "files_written": written,
        "terminal": terminal[-2000:],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = measure(options.requests)
    write_json(options.out.resolve(), {**found, "measured_with": collect_environment()})
    for row in found["hostile_requests"]:
        print(f"| {row['kind']} | {row['requests']} | {row['answers']} | {row['slowest_s']} |")
    good = found["answers_to_the_user_unchanged"] and found["server_alive"] and not found["files_written"]
    sys.exit(0 if good and not found["answered_wrong"] and not found["terminal"] else 1)


if __name__ == "__main__":
    main()
