"""Handwriting by script: the 50 alphabets of Omniglot as 50 named tasks, split by drawer, not by character."""

from __future__ import annotations

import numpy as np
import torch

from metabox.config import Unpack
from metabox.data.preprocessing import Preprocessing
from metabox.data.readers import name_some
from metabox.episodes import SPLITS
from metabox.ranges import Count
from metabox.targets import Classes, TaskSpec
from metabox.tasks.descriptors import Descriptor, OneHot
from metabox.tasks.images.omniglot import DRAWINGS, Omniglot
from metabox.tasks.multitask.alphabet_facts import about_alphabets
from metabox.tasks.named import FiniteOptions, FiniteTasks
from metabox.tasks.rows import Rows


class Alphabets(FiniteTasks):
    """Each alphabet of Omniglot is a task: which of its 14 to 55 characters is this?

    All tasks share L_i, the cross entropy, and differ in p_i(x) and in their classes. Every character was drawn by 20
    people. Some of these drawers are for training, others for validation and test; the characters are the same in
    all three. (Lake et al. 2015 and the few-shot protocols split by character, as in `Omniglot`.)

    Images are those of `Omniglot`, 28x28 and upright. The drawings of a character are in the order of the number at the
    end of their file names, which identifies the drawer within an alphabet.

    Args:
        alphabets: how many (the first ones by name), or their names; by default all 50.
        drawers: how many of the 20 drawers are for train, val and test.
        image_size: side of the images in pixels.
        descriptor: what a learner is told about an alphabet; by default its index, `OneHot`. `Specification` tells
            its kind, family and direction, `Text` the same in words and more; there is no metadata.
        data_root: folder that holds `omniglot/` or `omniglot-py/`; by default METABOX_DATA.
        **kwargs: of `FiniteTasks`.

    Raises:
        ValueError: if the drawers do not add up to 20; at the first use, if an alphabet is unknown, or the data are not
            found or incomplete.
    """

    def __init__(
        self,
        alphabets: Count | list[str] | None = None,
        drawers: tuple[Count, Count, Count] = (12, 4, 4),
        image_size: Count = 28,
        descriptor: Descriptor | None = None,
        data_root: str | None = None,
        **kwargs: Unpack[FiniteOptions],
    ) -> None:
        super().__init__(**kwargs)
        if sum(drawers) != DRAWINGS:
            raise ValueError(f"expected {DRAWINGS} drawers in three parts of at least 1, got {drawers}; try (12, 4, 4)")
        self.alphabets = alphabets
        self.drawers = drawers
        self.image_size = image_size
        self.descriptor = descriptor or OneHot()
        self.data_root = data_root

    @property
    def preprocessing(self) -> Preprocessing:  # type: ignore[override]  # of Omniglot
        return self._omniglot().preprocessing

    def _omniglot(self) -> Omniglot:
        return Omniglot(image_size=self.image_size, rotations=False, data_root=self.data_root)

    def load(self) -> Rows:
        images = self._omniglot().load()
        pack = images.pack
        names = self._chosen(pack.group_names)
        alphabet = np.array([name.split("/")[1] for name in pack.class_names])
        x, y, task = [], [], []
        for k, name in enumerate(names):
            (characters,) = np.nonzero(alphabet == name)
            for label, c in enumerate(characters):
                x.append(pack.images[pack.start[c] : pack.start[c + 1]])
                y += [label] * DRAWINGS
                task += [k] * DRAWINGS
        ways = np.array([int((alphabet == name).sum()) for name in names])
        told = self.descriptor.beyond_index(about_alphabets(names))
        index = self.descriptor.index_size(len(told))
        size = self.image_size
        return Rows(
            x=torch.cat(x),
            y=torch.tensor(y),
            split=np.tile(np.repeat(SPLITS, self.drawers), len(y) // DRAWINGS),
            spec=TaskSpec(
                (1, size, size),
                Classes(int(ways.max())),
                index + told.shape[1],
                tasks=tuple(names),
                index_size=index,
            ),
            task=np.array(task),
            descriptors=told,
            ways=ways,
        )

    def _chosen(self, known: list[str]) -> list[str]:
        if self.alphabets is None or isinstance(self.alphabets, int):
            n = len(known) if self.alphabets is None else self.alphabets
            if not 1 <= n <= len(known):
                raise ValueError(f"expected from 1 to {len(known)} alphabets, got {n}")
            return sorted(known)[:n]
        if missing := [name for name in self.alphabets if name not in known]:
            raise ValueError(f"expected alphabets among {name_some(sorted(known))}, got {name_some(missing)}")
        return self.alphabets
