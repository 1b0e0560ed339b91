"""Tasks over images, one file per image set."""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "EpisodeSampler")
