"""Multi-task learners, which are given the task."""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "Learner")
