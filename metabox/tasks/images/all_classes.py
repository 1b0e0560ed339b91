"""All training classes of an image set at once, for pre-training a backbone."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch

from metabox.data.augment import augmented
from metabox.data.preprocessing import Preprocessing
from metabox.episodes import Device, Episodes, Examples, Split
from metabox.ranges import Count, Within
from metabox.targets import Classes, TaskSpec
from metabox.tasks.nway import NWayKShot
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler


class AllClasses(EpisodeSampler):
    """Supervised classification of the meta-training classes: one task, always with the same labels, without support.

    A backbone trained on it is the start of meta-training in Chen et al. 2021 ("Meta-baseline"), and the whole of it
    in Tian et al. 2020 ("Rethinking few-shot image classification"). The classes of meta-validation and meta-test are
    not used: validation and test are on held-out images of the training classes, a share of them each.

    Train a learner with a head for fixed classes (`HardSharing`), then name the run in another recipe:
    `backbone: {class_path: FromRun, init_args: {run: runs/...}}`.

    Args:
        images: the set, with its augmentation; its n_way, n_shot and n_query are not used.
        n_query: images in a row of the batch.
        held_out: the share of each class's images for validation, and for test.

    Raises:
        ValueError: if an option is out of range; at the first use, if the set is missing, or a class is too small.
    """

    def __init__(
        self, images: NWayKShot, n_query: Count = 64, held_out: Annotated[float, Within(above=0, below=0.5)] = 0.05
    ) -> None:
        self.images, self.n_query, self.held_out = images, n_query, held_out

    @property
    def spec(self) -> TaskSpec:  # type: ignore[override]  # known once the data are loaded
        return TaskSpec(self.images.images.image_shape, Classes(len(self.images.images.splits["train"])))

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """Rows of images; see `EpisodeSampler.sample`."""
        draws = place.draws(type(self).__name__)
        stored = self.images.images
        label = draws.integers("class", 0, self.spec.target.size - 1, self.n_query)
        classes = stored.splits["train"][label]
        size = stored.sizes[classes]
        held = np.ceil(self.held_out * size).astype(np.int64)
        if (size <= 2 * held).any():
            raise ValueError(
                f"expected at least 3 images in every class to hold some out, got {int(size.min())} in one"
            )
        counts = {"train": (2 * held, size - 2 * held), "val": (0 * held, held), "test": (held, held)}
        low, count = counts[place.split]
        items = low + draws.integers("item", 0, count - 1, self.n_query)
        origin = torch.from_numpy(stored.ids(classes, items))
        x = stored.pictures(origin.view(-1), device)
        if self.images.augment is not None and place.split == "train":
            x = augmented(self.images.augment, x, place.draws("augmentation", type(self).__name__))
        x, y = x.view(*label.shape, *stored.image_shape), torch.from_numpy(label).to(device)
        query = Examples(x=x, y=y)
        label_set = query.mask.new_ones(len(x), self.spec.target.size)
        return Episodes(support=query[:, :0], query=query, classes=label_set, origin=origin.to(device))

    @property
    def preprocessing(self) -> Preprocessing | None:  # type: ignore[override]  # of the images
        return self.images.preprocessing

    def class_names(self) -> dict[Split, list[str]]:
        opened = vars(self.images).get("images")
        names = opened.class_names("train") if opened is not None else []
        return {"train": names} if names else {}

    def fingerprint(self) -> str:
        return self.images.fingerprint()
