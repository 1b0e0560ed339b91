"""What y can be: each kind of target with its likelihood, how it enters a network, its checks and its scores."""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "Target", "base.Target", "parts.Part", "spec.TaskSpec")
