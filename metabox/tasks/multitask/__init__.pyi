# Written by `python -m metabox.stubs`.

from metabox.tasks.multitask.alphabets import Alphabets as Alphabets
from metabox.tasks.multitask.celeba import CelebA as CelebA
from metabox.tasks.multitask.census import CensusIncome as CensusIncome
from metabox.tasks.multitask.kinds import Kinds as Kinds
from metabox.tasks.multitask.mail import MailFolder as MailFolder
from metabox.tasks.multitask.nyuv2 import NYUv2 as NYUv2
from metabox.tasks.multitask.recommendation import CorrelatedRegressions as CorrelatedRegressions
from metabox.tasks.multitask.recommendation import Viewers as Viewers
from metabox.tasks.multitask.regressions import DescribedRegressions as DescribedRegressions
from metabox.tasks.multitask.scenes import Scenes as Scenes
from metabox.tasks.multitask.shapes import Shapes as Shapes
from metabox.tasks.multitask.spam import MadeMail as MadeMail
