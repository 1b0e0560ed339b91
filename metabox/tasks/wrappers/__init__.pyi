# Written by `python -m metabox.stubs`.

from metabox.tasks.wrappers.consecutive import Consecutive as Consecutive
from metabox.tasks.wrappers.curriculum import Curriculum as Curriculum
from metabox.tasks.wrappers.features import Features as Features
from metabox.tasks.wrappers.fewer_classes import FewerClasses as FewerClasses
from metabox.tasks.wrappers.fixed_labels import FixedLabels as FixedLabels
from metabox.tasks.wrappers.learn2learn import FromLearn2Learn as FromLearn2Learn
from metabox.tasks.wrappers.prefetch import Prefetch as Prefetch
from metabox.tasks.wrappers.projections import RandomProjections as RandomProjections
from metabox.tasks.wrappers.subset import Subset as Subset
from metabox.tasks.wrappers.two_stages import TwoStages as TwoStages
