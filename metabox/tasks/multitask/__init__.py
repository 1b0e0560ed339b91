"""Several named tasks, or one task of several parts: one file per set."""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "EpisodeSampler")
