"""Tasks over images, one file per set of images."""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "EpisodeSampler")
