"""How the losses of several tasks become one step, and whether tasks help each other.

`from metabox.multitask import Uncertainty` finds any weighting or hook. The outer loop imports nothing of this package.
"""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "Weighting", "Hook")
