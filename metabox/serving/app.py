"""The application: a page at `/`, and tasks as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import metabox
from metabox.model import Model
from metabox.serving.guard import FAILED, Guard, as_json, refusal
from metabox.serving.limits import Limits, Refused
from metabox.serving.reading import Reader
from metabox.serving.store import Store, Task
from metabox.serving.worker import Worker
from metabox.targets.vector import RealVector

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/pad.js": ("pad.js", "text/javascript"),
}
READERS = 2  # threads that decode images


def make_app(model: Model, limits: Limits | None = None, host: str = "127.0.0.1") -> Guard:
    """The ASGI application that serves a model.

    Args:
        model: of classes or of real numbers, that learns from examples alone.
        limits: of what it takes.
        host: on which it listens; requests that name another one are refused.

    Raises:
        ValueError: if it is another model.
    """
    limits = limits or Limits()
    return Guard(Server(model, limits).app(), limits, host)


class Server:
    """The handlers of requests."""

    def __init__(self, model: Model, limits: Limits) -> None:
        model.check_usable(None)
        if model.spec.target.n_classes is None and not isinstance(model.spec.target, RealVector):
            raise ValueError(f"expected a model of classes or of real numbers, got one of {model.spec.target!r}")
        model.fingerprint  # noqa: B018  # found here, since plugins are known to this thread only
        self.model, self.limits = model, limits
        self.store, self.reader = Store(limits), Reader(model, limits)
        self.worker = Worker(model)
        self._readers = ThreadPoolExecutor(READERS, "metabox reader")
        self._pages = {url: ((PAGE / file).read_bytes(), kind) for url, (file, kind) in FILES.items()}

    def app(self) -> Starlette:
        routes = [
            *(Route(url, self.page, methods=["GET"]) for url in FILES),
            Route("/health", self.health, methods=["GET"]),
            Route("/model", self.about, methods=["GET"]),
            Route("/tasks", self.tasks, methods=["GET"]),
            Route("/tasks", self.adapt, methods=["POST"]),
            Route("/tasks/{name}", self.task, methods=["GET"]),
            Route("/tasks/{name}", self.replace, methods=["PUT"]),
            Route("/tasks/{name}", self.forget, methods=["DELETE"]),
            Route("/tasks/{name}/examples", self.add, methods=["POST"]),
            Route("/tasks/{name}/predict", self.predict, methods=["POST"]),
        ]
        app = Starlette(
            routes=routes,
            exception_handlers={HTTPException: _refuse, Refused: _refuse, Exception: _failed},
            lifespan=self._lifespan,
        )
        app.router.redirect_slashes = False
        return app

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        self.stop()

    def stop(self) -> None:
        self.worker.stop()
        self._readers.shutdown(cancel_futures=True)

    async def page(self, request: Request) -> Response:
        content, kind = self._pages[request.url.path]
        return Response(content, media_type=kind)

    async def health(self, request: Request) -> Response:
        return as_json({"status": "ok", "tasks": len(self.store), "version": metabox.__version__})

    async def about(self, request: Request) -> Response:
        model, spec = self.model, self.model.spec
        about: dict[str, Any] = {
            "name": model.name,
            "learner": type(model.learner).__name__,
            "licence": model.licence,
            "card": model.card,
            "inputs": "images" if self.reader.of_images else "numbers",
            "x_shape": list(spec.x_shape),
            "outputs": "classes" if self.reader.of_classes else "numbers",
            "ink": ink_of(model),
            "limits": {**self.limits.as_json(), "classes": self.reader.most_classes},
        }
        return as_json(about)

    async def tasks(self, request: Request) -> Response:
        return as_json({"tasks": [task.as_json() for task in self.store.all()]})

    async def task(self, request: Request) -> Response:
        return as_json(self.store.get(request.path_params["name"]).as_json())

    async def adapt(self, request: Request) -> Response:
        x, y = self.reader.examples(await request.body())
        task = await self._learned(await self._inputs(x), y)
        forgotten = self.store.put(task)
        return as_json(task.as_json() | {"forgotten": forgotten}, 201, {"location": f"/tasks/{task.name}"})

    async def replace(self, request: Request) -> Response:
        old = self.store.get(request.path_params["name"])
        x, y = self.reader.examples(await request.body())
        return self._kept(await self._learned(await self._inputs(x), y, old.name), old)

    async def add(self, request: Request) -> Response:
        old = self.store.get(request.path_params["name"])
        x, y = self.reader.examples(await request.body())
        y = old.y + y
        if len(y) > self.limits.examples:
            raise Refused(422, f"expected at most {self.limits.examples} examples in all, got {len(y)}")
        if self.reader.of_classes:
            self.reader.check_classes(list(dict.fromkeys(y)))
        new = await self._inputs(x)
        return self._kept(await self._learned(torch.cat([old.x, new]), y, old.name), old)

    def _kept(self, task: Task, old: Task) -> Response:
        return as_json(task.as_json() | {"forgotten": self.store.put(task, instead=old)})

    async def forget(self, request: Request) -> Response:
        self.store.forget(request.path_params["name"])
        return Response(status_code=204)

    async def predict(self, request: Request) -> Response:
        task = self.store.get(request.path_params["name"])
        x = await self._inputs(self.reader.queries(await request.body()))
        try:
            params = await self.worker.predict(task.adaptation, x)
        except ValueError as error:
            raise Refused(422, str(error)) from error
        return as_json(self._answers(task, params))

    def _answers(self, task: Task, params: Any) -> dict[str, Any]:
        if not bool(params.isfinite().all()):
            raise Refused(422, "expected inputs for which the model's answers are finite; these are too extreme")
        classes = task.adaptation.classes
        if classes is None:
            target: Any = self.model.spec.target
            mean, std = (part[0].double().tolist() for part in (target.mean(params[None]), target.std(params[None])))
            return {"predictions": [{"mean": m, "std": s} for m, s in zip(mean, std, strict=True)]}
        rows = []
        for row in params.double().tolist():
            p = dict(zip(classes, (round(part, 6) for part in row), strict=True))
            best = max(p, key=lambda name: p[name])
            rows.append({"class": best, "probability": p[best], "probabilities": p})
        return {"classes": list(classes), "predictions": rows}

    async def _inputs(self, given: list[Any]) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self.reader.inputs, given)

    async def _learned(self, x: Any, y: list[Any], name: str | None = None) -> Task:
        classes = tuple(dict.fromkeys(y)) if self.reader.of_classes else None
        try:
            adaptation = await self.worker.run(lambda: self.model.adapt(x, y, classes))
        except (ValueError, OverflowError) as error:
            raise Refused(422, str(error)) from error
        return Task(adaptation, x, y) if name is None else Task(adaptation, x, y, name)


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        method = request.method[:20]
        lines = {404: "expected a page that exists; see GET /", 405: f"expected another method than {method} here"}
        return refusal(error.status_code, lines.get(error.status_code, error.detail))
    assert isinstance(error, Refused)
    return refusal(error.status, str(error))


async def _failed(request: Request, error: Exception) -> Response:
    return refusal(500, FAILED)  # where `Guard` prints it


def ink_of(model: Model) -> str | None:
    """Which drawings the model takes: "dark" ink on light, "light" on dark; None if it was trained on no drawings."""
    shape, preprocessing = model.spec.x_shape, model.preprocessing
    if len(shape) != 3 or shape[0] != 1:
        return None
    return "dark" if preprocessing is not None and preprocessing.inverted else "light"
