# Written by `python -m metabox.stubs`.

from metabox.testing.cases import SPECS as SPECS
from metabox.testing.cases import build as build
from metabox.testing.cases import make_episodes as make_episodes
from metabox.testing.cases import outputs as outputs
from metabox.testing.checks import CHECKS as CHECKS
from metabox.testing.checks import check_learner as check_learner
