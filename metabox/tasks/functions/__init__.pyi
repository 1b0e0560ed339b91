# Written by `python -m metabox.stubs`.

from metabox.tasks.functions.gaussian_process import GaussianProcess as GaussianProcess
from metabox.tasks.functions.kernels import Matern12 as Matern12
from metabox.tasks.functions.kernels import Matern32 as Matern32
from metabox.tasks.functions.kernels import Matern52 as Matern52
from metabox.tasks.functions.kernels import Periodic as Periodic
from metabox.tasks.functions.kernels import RBF as RBF
from metabox.tasks.functions.kernels import WeaklyPeriodic as WeaklyPeriodic
from metabox.tasks.functions.linear import DecisionTrees as DecisionTrees
from metabox.tasks.functions.linear import LinearFunctions as LinearFunctions
from metabox.tasks.functions.linear import TwoLayerNetworks as TwoLayerNetworks
from metabox.tasks.functions.sequences import AssociativeRecall as AssociativeRecall
from metabox.tasks.functions.sequences import Copy as Copy
from metabox.tasks.functions.sinusoids import Harmonics as Harmonics
from metabox.tasks.functions.sinusoids import Sawtooth as Sawtooth
from metabox.tasks.functions.sinusoids import Sinusoids as Sinusoids
from metabox.tasks.functions.sinusoids import Steps as Steps
