"""Draws the next episodes while the current ones are in use."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metabox.episodes import Device, Episodes
from metabox.targets import TaskSpec
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.base import Wrapper

_Call = tuple[Place, torch.device]


class Prefetch(Wrapper):
    """The tasks of another sampler, bit for bit, drawn ahead in a thread.

    It pays if images are read from a file that does not fit the device (see `StoredImages`), or if drawing takes about
    as long as a step. If calls advance in equal steps (`index` in training, `first` in evaluation), the next one is
    drawn ahead. The inner sampler is called only by this thread, so it need not be thread-safe.

    Args:
        tasks: any sampler.
    """

    def __init__(self, tasks: EpisodeSampler) -> None:
        super().__init__(tasks)
        self._thread = ThreadPoolExecutor(1, "prefetch")
        self._ahead: dict[_Call, Future[Episodes]] = {}
        self._last: _Call | None = None
        self._step: tuple[int, int] | None = None

    @property
    def spec(self) -> TaskSpec:  # type: ignore[override]  # the inner sampler opens its data at the first use
        return self._thread.submit(lambda: self.tasks.spec).result()

    def trained_tasks(self) -> tuple[Tensor | None, Tensor] | None:
        return self._thread.submit(self.tasks.trained_tasks).result()

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """The inner sampler's tasks at the place; see `EpisodeSampler.sample`."""
        call = place, _numbered(device)
        wanted = self._ahead.pop(call, None)
        for other in self._ahead.values():
            other.cancel()
        self._ahead = {}
        following = self._following(call)
        episodes = (wanted or self._submit(call)).result()
        if following is not None:
            self._ahead = {following: self._submit(following)}
        return self.change(episodes, place)

    def change(self, episodes: Episodes, place: Place) -> Episodes:
        """The tasks unchanged: only the time of drawing differs."""
        return episodes

    def _submit(self, call: _Call) -> Future[Episodes]:
        return self._thread.submit(self.tasks.sample, *call)

    def _following(self, call: _Call) -> _Call | None:
        """The next call, if this one came one index after the last, or by the same step as the last."""
        last, self._last = self._last, call
        before, self._step = self._step, None
        place, device = call
        if last is None or (replace(last[0], index=place.index, first=place.first), last[1]) != call:
            return None
        self._step = place.index - last[0].index, place.first - last[0].first
        if self._step not in (before, (1, 0)) or self._step == (0, 0):
            return None
        index, first = place.index + self._step[0], place.first + self._step[1]
        return (replace(place, index=index, first=first), device) if index >= 0 and first >= 0 else None

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the inner sampler, since the tasks are the same."""
        return self.tasks.config

    def fingerprint(self) -> str:
        return self._thread.submit(self.tasks.fingerprint).result()


def _numbered(device: Device) -> torch.device:
    """The device with the index that "cuda" means in this thread; the other thread has another current device."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
