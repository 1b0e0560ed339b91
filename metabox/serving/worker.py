"""The one thread that uses the model: queries that wait for it share a forward pass."""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from metabox.adaptation import Adaptation
from metabox.model import Model
from metabox.querying import predict_many


@dataclass
class _Query:
    adaptation: Adaptation
    x: Tensor
    answer: Future[Tensor] = field(default_factory=Future)


@dataclass
class _Job:
    call: Callable[[], Any]
    answer: Future[Any] = field(default_factory=Future)


class Worker:
    """Adapts and predicts in a thread of its own, in the order of requests except that waiting queries go together.

    It ends with the process, or by `stop`.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.passes = 0  # how often queries were answered: together counts once
        self._waiting: queue.SimpleQueue[_Query | _Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="metabox model", daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[], Any]) -> Any:
        """What a call returns that uses the model."""
        job = _Job(call)
        self._waiting.put(job)
        return await asyncio.wrap_future(job.answer)

    async def predict(self, adaptation: Adaptation, x: Tensor) -> Tensor:
        """As `Model.predict`, on the CPU."""
        query = _Query(adaptation, x)
        self._waiting.put(query)
        return await asyncio.wrap_future(query.answer)

    def stop(self) -> None:
        """End the thread after what it is doing."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            entries = [self._waiting.get()]
            while not self._waiting.empty():
                entries.append(self._waiting.get())
            for entry in entries:
                if isinstance(entry, _Job) and entry.answer.set_running_or_notify_cancel():
                    _settle(entry.answer, entry.call)
            queries = [entry for entry in entries if isinstance(entry, _Query)]
            self._answer([query for query in queries if query.answer.set_running_or_notify_cancel()])
            if None in entries:
                return

    def _answer(self, queries: list[_Query]) -> None:
        if not queries:
            return
        self.passes += 1
        try:
            answers = predict_many(self.model, [q.adaptation for q in queries], [q.x for q in queries])
        except Exception:  # of one of them: the others are answered all the same
            for query in queries:
                _settle(query.answer, functools.partial(self._alone, query))
            return
        for query, answer in zip(queries, answers, strict=True):
            query.answer.set_result(answer.cpu())

    def _alone(self, query: _Query) -> Tensor:
        return self.model.predict(query.adaptation, query.x).cpu()


def _settle(answer: Future[Any], call: Callable[[], Any]) -> None:
    try:
        answer.set_result(call())
    except Exception as error:
        answer.set_exception(error)
