"""How the losses of several tasks become one step, and whether tasks help each other.

Every weighting and hook can be imported from here: `from metabox.multitask import Uncertainty`. The outer loop imports
nothing from this package.
"""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(__name__, "Weighting", "Hook")
