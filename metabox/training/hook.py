"""Hooks: observers of a run while it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from metabox.config import Configured
from metabox.episodes import Episodes
from metabox.objectives import Objective


class Hook(Configured, ABC):
    """Observes a run while it trains, and changes nothing in it: no weights, no modes, no random state.

    Only the process of a run that writes calls it. A hook writes its findings into a file of its own in the folder
    `hooks` of the run. A run that resumes from a checkpoint repeats the steps after it, so `begin` truncates the file
    to that step, and the file ends up the same as without the interruption.
    """

    @abstractmethod
    def check(self, objective: Objective) -> None:
        """Check that the hook applies to this run, before anything is written.

        Args:
            objective: what is trained, with its learner.

        Raises:
            ValueError: if it does not, with the reason.
        """

    @abstractmethod
    def begin(self, objective: Objective, folder: Path, step: int) -> None:
        """Start or resume a run.

        Args:
            objective: what is trained, with its learner.
            folder: for the hook's file; it may not exist yet.
            step: of the checkpoint that the run resumes from, or 0. This step and later ones are observed again.
        """

    @abstractmethod
    def before_step(self, step: int, episodes: Episodes) -> None:
        """Observe the weights before a step, and the first batch of its tasks.

        Args:
            step: counted from 0.
            episodes: on the device of the run; must not be modified.
        """
