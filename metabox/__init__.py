"""metabox: black-box meta-learning and multi-task learning in PyTorch.

Learners are in `metabox.learners`, task distributions in `metabox.tasks`. Names are
imported when they are first used, so that the command line answers before torch has loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metabox.config import Configured as Configured
    from metabox.episodes import Episodes as Episodes
    from metabox.episodes import Examples as Examples
    from metabox.evaluation import Scores as Scores
    from metabox.evaluation import evaluate as evaluate
    from metabox.learners.base import Learner as Learner
    from metabox.objectives import Objective as Objective
    from metabox.objectives import QueryLoss as QueryLoss
    from metabox.objectives import StreamLoss as StreamLoss
    from metabox.recipe import load_run as load_run
    from metabox.targets import Bars as Bars
    from metabox.targets import Binary as Binary
    from metabox.targets import Classes as Classes
    from metabox.targets import Part as Part
    from metabox.targets import Parts as Parts
    from metabox.targets import Reals as Reals
    from metabox.targets import Target as Target
    from metabox.targets import TaskSpec as TaskSpec
    from metabox.tasks.place import Place as Place
    from metabox.tasks.sampler import EpisodeSampler as EpisodeSampler
    from metabox.training.loop import run as run
    from metabox.training.settings import OuterLoop as OuterLoop

_HOMES = {
    "config": ("Configured",),
    "episodes": ("Episodes", "Examples"),
    "evaluation": ("Scores", "evaluate"),
    "learners.base": ("Learner",),
    "targets": ("Bars", "Binary", "Classes", "Part", "Parts", "Reals", "Target", "TaskSpec"),
    "objectives": ("Objective", "QueryLoss", "StreamLoss"),
    "recipe": ("load_run",),
    "tasks.place": ("Place",),
    "tasks.sampler": ("EpisodeSampler",),
    "training.settings": ("OuterLoop",),
    "training.loop": ("run",),
}

__version__ = "0.1.0"
__all__ = [name for names in _HOMES.values() for name in names]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
