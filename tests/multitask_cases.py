"""What the tests of networks of several tasks share: the networks, and specs with named tasks and parts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.targets import Classes, TaskSpec
from metabox.testing import SPECS

TASKS = SPECS["named tasks"]
PARTS = SPECS["named parts"]
IMAGES = TaskSpec((1, 16, 16), Classes(3), descriptor_size=3, tasks=("a", "b", "c"), index_size=3)
SIZES = (3, 4, 2)  # natural parameters of the named parts: 3 classes, 2 reals, 2 binary labels


def one_hot(tasks: list[int], k: int = 3) -> Tensor:
    return F.one_hot(torch.tensor(tasks), k).float()
