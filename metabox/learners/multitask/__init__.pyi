# Written by `python -m metabox.stubs`.

from metabox.learners.multitask.cross_stitch import CrossStitch as CrossStitch
from metabox.learners.multitask.dense import DenseMultiTask as DenseMultiTask
from metabox.learners.multitask.experts import MMoE as MMoE
from metabox.learners.multitask.experts import PLE as PLE
from metabox.learners.multitask.hard_sharing import HardSharing as HardSharing
from metabox.learners.multitask.independent import Independent as Independent
from metabox.learners.multitask.mtan import MTAN as MTAN
from metabox.learners.multitask.soft_sharing import SoftSharing as SoftSharing
