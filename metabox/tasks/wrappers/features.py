"""Tasks of features: the images of another sampler, embedded once by a frozen backbone."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from metabox.data.root import cache_folder
from metabox.data.stored import StoredImages
from metabox.episodes import Device, Episodes, Split
from metabox.nn.backbones import Backbone, MakeBackbone, make_backbone
from metabox.targets import TaskSpec
from metabox.tasks.nway import NWayKShot
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.base import Wrapper
from metabox.tensors import hash_of, load_tensors, save_tensors

BATCH = 8  # larger ones leave the caches of a CPU core, and take up to twice as long


class Features(Wrapper):
    """The tasks of an N-way sampler with the features of a backbone in place of images.

    A head over a large frozen backbone trains a hundred times as fast so, because every image passes the backbone once,
    at the first use of its split. The features are kept in half precision beside the packs
    (`metabox.data.root.cache_folder`), and found again by the images and the backbone's weights.

    Args:
        tasks: an N-way sampler without augmentation.
        backbone: maps images to features; its weights never change.

    Raises:
        ValueError: if `tasks` is no N-way sampler, or augments images; at the first use, if its images are drawn anew
            for each task.
    """

    tasks: NWayKShot

    def __init__(self, tasks: EpisodeSampler, backbone: MakeBackbone) -> None:
        if not isinstance(tasks, NWayKShot):
            raise ValueError(f"expected an N-way sampler as tasks, got {type(tasks).__name__}; use CIFARFS, say")
        if tasks.augment is not None:
            raise ValueError("expected tasks without augmentation, got one; features are computed once for each image")
        super().__init__(tasks)
        self.make = backbone
        self._tables: dict[tuple[Split, torch.device], tuple[Tensor, Tensor]] = {}

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone in evaluation mode."""
        return make_backbone(self.make, self.tasks.spec.x_shape).eval().requires_grad_(False)

    @property
    def spec(self) -> TaskSpec:  # type: ignore[override]  # the inner sampler opens its data at the first use
        return replace(self.tasks.spec, x_shape=(self.backbone.out_features,))

    @property
    def preprocessing(self) -> None:  # type: ignore[override]  # what a learner sees are not images
        return None

    def fingerprint(self) -> str:
        return blake2b(f"{self.tasks.fingerprint()} {self._weights}".encode(), digest_size=16).hexdigest()

    def of_split(self, split: Split) -> Tensor:
        """The features of all images of a split `[n, D]`, in half precision, in the order of the images' ids."""
        return self._table(split, torch.device("cpu"))[1]

    def change(self, episodes: Episodes, place: Place) -> Episodes:
        assert episodes.origin is not None  # N-way samplers give it
        device = episodes.origin.device
        ids, features = self._table(place.split, device)
        rows = torch.searchsorted(ids, episodes.origin.clamp(min=0)).clamp(max=len(ids) - 1)
        x = features[rows].float().where((episodes.origin >= 0)[..., None], 0)
        n = episodes.support.x.shape[1]

        support, query = replace(episodes.support, x=x[:, :n]), replace(episodes.query, x=x[:, n:])
        return replace(episodes, support=support, query=query)

    def _table(self, split: Split, device: Device) -> tuple[Tensor, Tensor]:
        """The ids of a split's images in ascending order, and their features `[n, D]` in half precision."""
        device = torch.device(device)
        if (split, device) not in self._tables:
            images = self.tasks.images
            if not isinstance(images, StoredImages):
                raise ValueError(
                    f"expected tasks of stored images, got {type(self.tasks).__name__}, which draws new ones"
                )
            classes = images.splits[split]
            ids = np.concatenate([images.ids(np.full(images.sizes[c], c), np.arange(images.sizes[c])) for c in classes])
            ids.sort()
            features = self._kept(torch.from_numpy(ids))
            self._tables[split, device] = torch.from_numpy(ids).to(device), features.to(device)
        return self._tables[split, device]

    def _kept(self, ids: Tensor) -> Tensor:
        # In a folder of their own, for they are no packs.
        path = cache_folder() / "features" / f"{hash_of({'ids': ids}, {'of': self.fingerprint()})}.safetensors"
        try:
            return load_tensors(path)[0]["features"]
        except (OSError, ValueError):  # there is none, or a damaged one
            features = self._embed(ids)
        save_tensors(path, {"features": features})
        return features

    def _embed(self, ids: Tensor) -> Tensor:
        parts = []
        with torch.inference_mode(), tqdm(total=len(ids), desc="features", unit=" images", disable=None) as bar:
            for some in ids.split(BATCH):
                parts.append(self.backbone(self.tasks.images.pictures(some, "cpu")).half())
                bar.update(len(some))
        return torch.cat(parts)

    @cached_property
    def _weights(self) -> str:
        weights = {name: value.contiguous() for name, value in self.backbone.state_dict().items()}
        return hash_of(weights, {"backbone": repr(self.config["backbone"])})
