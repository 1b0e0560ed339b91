"""Tasks over functions; for most of them the best possible prediction is known."""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "EpisodeSampler", "Kernel")
