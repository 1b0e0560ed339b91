"""Learners that are told which task it is."""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "Learner")
