"""Many small draws of a task from a few large ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metabox.seeding import Draws

BLOCK = 512
"""Words drawn at once."""


class Stream(Draws):
    """Draws whose small ones are cut one after the other from blocks, which takes a tenth of the time.

    The numbers depend on what was drawn before from the same stream: the code that draws must be the same for all of
    its tasks. Where tasks part ways, `at` gives some of them a stream of their own. Names matter only to large draws.
    """

    def __init__(self, *address: object, n_tasks: int, first: int = 0) -> None:
        super().__init__(*address, n_tasks=n_tasks, first=first)
        self._block: NDArray[np.uint32] = np.empty((n_tasks, 0), dtype=np.uint32)
        self._blocks, self._used = 0, 0

    @classmethod
    def of(cls, draws: Draws) -> Stream:
        """The streams of the same tasks."""
        made = cls(n_tasks=0)
        made.address, made.indices, made.tasks = draws.address, draws.indices, draws.tasks
        return made

    def at(self, chosen: Any) -> Stream:
        """Streams of some of these tasks, other ones after each draw."""
        made: Stream = super().at(chosen)  # type: ignore[assignment]
        made.address = ("at", self._blocks, self._used, *made.address)
        return made

    def _words(self, name: str, *shape: int) -> NDArray[np.uint32]:
        size = math.prod(shape)
        if size > BLOCK // 2:
            return super()._words(name, *shape)
        if self._used + size > self._block.shape[1]:
            self._block, self._used = super()._words(f"block {self._blocks}", BLOCK), 0
            self._blocks += 1
        part = self._block[:, self._used : self._used + size]
        self._used += size
        found: NDArray[np.uint32] = part.reshape(len(part), *shape).copy()
        return found
