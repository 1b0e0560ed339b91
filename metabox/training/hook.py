"""Hooks: what looks at a run while it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from metabox.config import Configured
from metabox.episodes import Episodes
from metabox.objectives import Objective


class Hook(Configured, ABC):
    """Looks at a run while it trains, and changes nothing in it: no weights, no modes, no state of random numbers.

    Only the one process of a run that writes calls it. What a hook finds is a file of its own in the folder `hooks` of
    the run. A run that goes on from a checkpoint repeats the steps after it, so `begin` cuts the file back to that
    step, and the file ends as that of a run that was never stopped.
    """

    @abstractmethod
    def check(self, objective: Objective) -> None:
        """Find out whether there is anything to see, before anything is written.

        Args:
            objective: what is trained, with its learner.

        Raises:
            ValueError: if there is nothing, saying why.
        """

    @abstractmethod
    def begin(self, objective: Objective, folder: Path, step: int) -> None:
        """Start a run, or go on with it.

        Args:
            objective: what is trained, with its learner.
            folder: for the hook's file; it may not be there yet.
            step: of the checkpoint that the run goes on from, or 0. Findings of this step and later ones come again.
        """

    @abstractmethod
    def before_step(self, step: int, episodes: Episodes) -> None:
        """See the weights before a step, and the first batch of its tasks.

        Args:
            step: counted from 0.
            episodes: on the device of the run; not to be written to.
        """
