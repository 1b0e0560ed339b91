"""Task distributions p(T), one file each, found by `from metabox.tasks import Omniglot` without a list to extend."""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "EpisodeSampler", "Kernel")
