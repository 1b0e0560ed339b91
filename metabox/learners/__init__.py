"""One file per method. `from metabox.learners import CNP` finds any of them; there is no list to extend."""

from metabox.discover import lazy, subclasses

__getattr__ = lazy(__name__, ("Learner",))


def __dir__() -> list[str]:
    return [found.name for found in subclasses("Learner")]
