# Written by `python -m metabox.stubs`.

from metabox.tasks.wrappers.curriculum import Curriculum as Curriculum
from metabox.tasks.wrappers.features import Features as Features
from metabox.tasks.wrappers.fixed_labels import FixedLabels as FixedLabels
from metabox.tasks.wrappers.learn2learn import FromLearn2Learn as FromLearn2Learn
from metabox.tasks.wrappers.prefetch import Prefetch as Prefetch
from metabox.tasks.wrappers.projections import RandomProjections as RandomProjections
