"""The peers that speed.py compares with metabox, each used as in its documentation; none is required."""

from __future__ import annotations

import importlib.util
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from stopwatch import Call
from torch import Tensor, nn

from metabox.tasks.images.omniglot import Omniglot


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def samplers(sampler: Omniglot) -> dict[str, Call]:
    """One task from each peer's loader over the same training images, which are one tensor in memory."""
    images, labels = _training_set(sampler)
    found: dict[str, Call] = {"item by item": _item_by_item(sampler, images, labels)}
    if has("learn2learn"):
        found["learn2learn"] = _learn2learn(sampler, images, labels)
    if has("easyfsl"):
        found["easyfsl"] = _easyfsl(sampler, images, labels)
    return found


def _training_set(sampler: Omniglot) -> tuple[Tensor, Tensor]:
    stored = sampler.images
    classes = stored.splits["train"]
    sizes = stored.sizes[classes]
    items = np.concatenate([np.arange(size) for size in sizes])
    labels = torch.arange(len(classes)).repeat_interleave(torch.from_numpy(sizes))
    return stored.gather(np.repeat(classes, sizes), items, "cpu"), labels


def _item_by_item(sampler: Omniglot, images: Tensor, labels: Tensor) -> Call:
    """As in torchmeta, which no current torch supports: a data set for each class, an item at a time, collated."""
    from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

    whole = TensorDataset(images, labels)
    classes = [Subset(whole, (labels == c).nonzero().flatten().tolist()) for c in labels.unique().tolist()]
    shot, each = sampler.n_shot[0], sampler.n_shot[0] + sampler.n_query[0]

    def task() -> list[Any]:
        chosen = random.sample(classes, sampler.n_way[0])
        items = [random.sample(range(len(c)), each) for c in chosen]
        parts: list[ConcatDataset[Any]] = [
            ConcatDataset([Subset(c, i[part]) for c, i in zip(chosen, items, strict=True)])
            for part in (slice(shot), slice(shot, None))
        ]
        return [next(iter(DataLoader(part, batch_size=len(part), shuffle=True))) for part in parts]

    return task


def _learn2learn(sampler: Omniglot, images: Tensor, labels: Tensor) -> Call:
    from learn2learn.data import MetaDataset, TaskDataset
    from learn2learn.data.transforms import ConsecutiveLabels, KShots, LoadData, NWays, RemapLabels

    each = sampler.n_shot[0] + sampler.n_query[0]
    dataset = MetaDataset(torch.utils.data.TensorDataset(images, labels))
    transforms = [
        NWays(dataset, sampler.n_way[0]),
        KShots(dataset, each),
        LoadData(dataset),
        RemapLabels(dataset),
        ConsecutiveLabels(dataset),
    ]
    tasks = TaskDataset(dataset, task_transforms=transforms, num_tasks=-1)
    sample: Callable[[], object] = tasks.sample
    return sample


def _easyfsl(sampler: Omniglot, images: Tensor, labels: Tensor) -> Call:
    """Its sampler and collate function in a DataLoader, with torch's current signature of `Sampler.__init__`."""
    from easyfsl.samplers import TaskSampler

    class Images(torch.utils.data.TensorDataset):
        def get_labels(self) -> list[int]:
            return labels.tolist()

    initialise = torch.utils.data.Sampler.__init__
    torch.utils.data.Sampler.__init__ = lambda self, data_source=None: None  # type: ignore
    try:
        way, shot, query = sampler.n_way[0], sampler.n_shot[0], sampler.n_query[0]
        dataset = Images(images, labels)
        tasks = TaskSampler(dataset, way, shot, query, n_tasks=10**9)
    finally:
        torch.utils.data.Sampler.__init__ = initialise  # type: ignore[method-assign]
    # Its collate function needs integer labels.
    pairs = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
    loader: Any = torch.utils.data.DataLoader(pairs, batch_sampler=tasks, collate_fn=tasks.episodic_collate_fn)  # type: ignore[arg-type]
    batches: Iterator[Any] = iter(loader)
    return lambda: next(batches)


Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def neural_processes(width: int, depth: int) -> dict[str, tuple[nn.Module, Loss]]:
    """Models of `neuralprocesses`, each with its loss of (x, y, query x, query y), all `[T, 1, N or M]`."""
    if not has("neuralprocesses"):
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import neuralprocesses.torch as nps

    perceptrons = {"dim_embedding": width, "width": width, "num_enc_layers": depth, "num_dec_layers": depth}
    made = {
        "CNP": nps.construct_gnp(likelihood="het", **perceptrons),
        "ACNP": nps.construct_agnp(likelihood="het", num_heads=8, **perceptrons),
        "ConvCNP": nps.construct_convgnp(likelihood="het"),  # its default sizes are ours
    }

    def loss_of(model: nn.Module) -> Loss:
        def loss(x: Tensor, y: Tensor, query: Tensor, answer: Tensor) -> Tensor:
            log_p: Tensor = nps.loglik(model, [(x, y)], query, answer, normalise=True)
            return -log_p.mean()

        return loss

    return {name: (model, loss_of(model)) for name, model in made.items()}
