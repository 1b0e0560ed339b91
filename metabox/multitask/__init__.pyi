# Written by `python -m metabox.stubs`.

from metabox.multitask.affinity import TaskAffinity as TaskAffinity
from metabox.multitask.surgery import Surgery as Surgery
from metabox.multitask.transfer import GradientCosines as GradientCosines
from metabox.multitask.weights import DWA as DWA
from metabox.multitask.weights import Fixed as Fixed
from metabox.multitask.weights import GradNorm as GradNorm
from metabox.multitask.weights import Random as Random
from metabox.multitask.weights import Uncertainty as Uncertainty
from metabox.multitask.weights import WorstCase as WorstCase
