"""One file per method. `from metabox.learners import CNP` finds any of them; there is no list to extend."""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "Learner")
