"""How the losses of several tasks become one step. `from metabox.weighting import Uncertainty` finds any weighting."""

from metabox.discover import lazy, subclasses
from metabox.weighting.base import Weighting as Weighting
from metabox.weighting.base import Weights as Weights

__getattr__ = lazy(__name__, ("Weighting",))


def __dir__() -> list[str]:
    return [found.name for found in subclasses("Weighting")]
