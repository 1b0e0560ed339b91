"""Task distributions made from other task distributions."""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "EpisodeSampler")
