# Written by `python -m metabox.stubs`.

from metabox.targets.bars import Bars as Bars
from metabox.targets.base import Target as Target
from metabox.targets.binary import Binary as Binary
from metabox.targets.classes import Classes as Classes
from metabox.targets.direction import Direction as Direction
from metabox.targets.huber import Huber as Huber
from metabox.targets.laplace import Laplace as Laplace
from metabox.targets.mixture import Mixture as Mixture
from metabox.targets.parts import Part as Part
from metabox.targets.parts import Parts as Parts
from metabox.targets.per_task import PerTask as PerTask
from metabox.targets.quantiles import Quantiles as Quantiles
from metabox.targets.reals import Reals as Reals
from metabox.targets.spec import TaskSpec as TaskSpec
from metabox.targets.vector import Vector as Vector
