"""Task distributions that are not image sets. `from metabox.tasks import GaussianProcess` finds any of them."""

from metabox.discover import lazy, subclasses

__getattr__ = lazy(__name__, ("EpisodeSampler", "Kernel"))


def __dir__() -> list[str]:
    found = subclasses("EpisodeSampler") + subclasses("Kernel")
    return [f.name for f in found if f.module.startswith(f"{__name__}.")]
