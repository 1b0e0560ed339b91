# Written by `python -m metabox.stubs`.

from metabox.tasks.images.all_classes import AllClasses as AllClasses
from metabox.tasks.images.cifar100 import CIFARFS as CIFARFS
from metabox.tasks.images.cifar100 import FC100 as FC100
from metabox.tasks.images.completion import ImageCompletion as ImageCompletion
from metabox.tasks.images.cub import CUB as CUB
from metabox.tasks.images.folder import ClassFolder as ClassFolder
from metabox.tasks.images.glyphs import Glyphs as Glyphs
from metabox.tasks.images.handwriting import Handwriting as Handwriting
from metabox.tasks.images.lake_runs import LakeRuns as LakeRuns
from metabox.tasks.images.miniimagenet import MiniImageNet as MiniImageNet
from metabox.tasks.images.omniglot import Omniglot as Omniglot
from metabox.tasks.images.own_photos import OwnPhotos as OwnPhotos
from metabox.tasks.images.tieredimagenet import TieredImageNet as TieredImageNet
