"""What y can be: each kind of target with its likelihood, encoding, checks and scores."""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "Target", "base.Target", "parts.Part", "spec.TaskSpec")
