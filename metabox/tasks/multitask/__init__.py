"""Several tasks that have names, or one of several parts: one file per set."""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "EpisodeSampler")
