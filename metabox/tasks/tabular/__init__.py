"""Tasks that are tables: rows of columns of any kind, and a column to predict."""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "EpisodeSampler")
