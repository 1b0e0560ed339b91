"""Tasks over functions, most of which have a best possible answer that is known."""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "EpisodeSampler", "Kernel")
