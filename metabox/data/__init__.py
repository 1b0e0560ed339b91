"""Task distributions over images: one file per set. `from metabox.data import Omniglot` finds any of them."""

from metabox.discover import lazy, subclasses

__getattr__ = lazy(__name__, ("EpisodeSampler",))


def __dir__() -> list[str]:
    return [found.name for found in subclasses("EpisodeSampler")]
