"""learn2learn's task sets as p(T), and p(T) as one of its task sets. Neither needs learn2learn installed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metabox.checks import checked
from metabox.episodes import Device, Episodes, Examples, Split
from metabox.ranges import Count
from metabox.seeding import make_key
from metabox.targets import Classes, TaskSpec
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler


class FromLearn2Learn(EpisodeSampler):
    """The tasks of learn2learn's task sets, one `Taskset` (or `TaskDataset`) for each split.

    All three of a benchmark, for example::

        tasksets = learn2learn.vision.benchmarks.get_tasksets("omniglot", train_ways=5, train_samples=2, ...)
        tasks = FromLearn2Learn(*tasksets, n_way=5, n_shot=1)

    A task of learn2learn is a batch (data, labels) with equally many examples of each class. Here `n_shot` of each
    become the support and the others the query, labels are permuted, and both parts have a random order. Images are as
    the task set's transforms return them.

    A task set draws from the global generators of Python, NumPy and torch. Here they are seeded for every task by a
    hash of (seed, split, index, task), and restored afterwards, in a tenth of a millisecond. A task set of `num_tasks`
    has that many tasks; its cache of descriptions is not used, because its content depends on earlier calls. The task
    set itself is slow: it loads and transforms the images of a task one by one.

    Args:
        train: the task set of the training split.
        val: the task set of the validation split.
        test: the task set of the test split.
        n_way: classes of a task.
        n_shot: support examples of each class.

    Raises:
        ValueError: if there is no task set, or if a task has another number of classes or too few examples of one.
    """

    data_arguments = ("train", "val", "test")

    def __init__(self, train: Any = None, val: Any = None, test: Any = None, *, n_way: Count, n_shot: Count) -> None:
        self.n_way, self.n_shot = n_way, n_shot
        tasksets: dict[Split, Any] = {"train": train, "val": val, "test": test}
        self._tasksets = {split: taskset for split, taskset in tasksets.items() if taskset is not None}
        if not self._tasksets:
            raise ValueError("expected a task set for at least one of train, val and test, got none")
        first: Split = next(iter(self._tasksets))
        self.spec = TaskSpec(tuple(self._task(first, "the shape")[0].shape[1:]), Classes(n_way))

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """Episodes `[T, ...]`, drawn one after the other; see `EpisodeSampler.sample`."""
        split, taskset = place.split, self._taskset(place.split)
        draws = place.draws("learn2learn")
        if taskset.num_tasks > 0:
            numbers = draws.integers("number", 0, taskset.num_tasks - 1)
            tasks = [self._task(split, "number", number) for number in numbers.tolist()]
        else:
            tasks = [self._task(split, place.seed, place.index, task) for task in draws.tasks.tolist()]
        labels = np.stack([self._dense(y) for _, y in tasks])
        order = draws.shuffled("order", np.zeros(labels.shape, dtype=bool))
        labels = np.take_along_axis(labels, order, axis=1)
        same = labels[:, :, None] == labels[:, None, :]
        late = np.tril(same).sum(-1) > self.n_shot  # the first n_shot of each class are the support
        support_first = np.argsort(late, axis=1, kind="stable")
        names = draws.shuffled("names", np.zeros((1, self.n_way), dtype=bool))
        labels = np.take_along_axis(np.take_along_axis(names, labels, axis=1), support_first, axis=1)
        order = np.take_along_axis(order, support_first, axis=1)
        x = torch.stack([data[torch.from_numpy(row)] for (data, _), row in zip(tasks, order, strict=True)]).to(device)
        y = torch.from_numpy(labels).to(device)
        n = self.n_way * self.n_shot
        support, query = Examples(x=x[:, :n], y=y[:, :n]), Examples(x=x[:, n:], y=y[:, n:])
        return Episodes(support=support, query=query, classes=support.mask.new_ones(len(x), self.n_way))

    def fingerprint(self) -> str:
        """Identifies one task of every split."""
        digest = hashlib.blake2b(digest_size=8)
        for split in self._tasksets:
            for part in self._task(split, "fingerprint"):
                digest.update(part.contiguous().numpy().tobytes())
        return f"learn2learn {digest.hexdigest()}"

    def _taskset(self, split: Split) -> Any:
        if split not in self._tasksets:
            raise ValueError(f"expected a split among {sorted(self._tasksets)}, got {split!r}; there is no task set")
        return self._tasksets[split]

    def _task(self, split: Split, *address: object) -> tuple[Tensor, Tensor]:
        """The task (data, labels) at an address, on the CPU."""
        taskset = self._taskset(split)
        with _seeded("learn2learn", split, *address):
            data, labels = taskset.get_task(taskset.sample_task_description())
        return data.cpu(), labels.cpu()

    def _dense(self, labels: Tensor) -> np.ndarray:
        """Labels 0 ... n_way - 1."""
        _, dense, counts = np.unique(labels.numpy(), return_inverse=True, return_counts=True)
        if len(counts) != self.n_way or counts.min() != counts.max() or counts[0] <= self.n_shot:
            raise ValueError(
                f"expected {self.n_way} classes with equally many examples, more than n_shot = {self.n_shot}, "
                f"got {counts.tolist()} of each; match n_way and n_shot to the task set's transforms"
            )
        return dense


def as_taskset(
    sampler: EpisodeSampler, split: Split, *, n_tasks: int = -1, seed: int = 0, device: Device = "cpu"
) -> Taskset:
    """The tasks of a sampler as code for learn2learn expects them: `data, labels = as_taskset(...).sample()`.

    Args:
        sampler: any sampler of classes, with at least as many queries as shots of each class.
        split: which classes.
        n_tasks: the set has the tasks 0 ... n_tasks - 1 of the list (seed, split), those that `metabox.evaluate`
            scores. With -1 it has length 1 and never ends: any access gives a new task, whose number is drawn from
            Python's generator, as in learn2learn.
        seed: another seed gives another list.
        device: the device of the tasks.

    Raises:
        ValueError: if the targets are not classes, or n_tasks is neither -1 nor positive.
    """
    return Taskset(sampler, split, n_tasks, seed, device)


class Taskset:
    """Replaces `learn2learn.data.Taskset`; see `as_taskset`.

    A task is (data, labels): floats `[n_way * (n_shot + n_query), *x_shape]`, images in 0...1, and class ids. The
    examples are sorted by class, support and query alternating, and further queries come last. So the support is
    `data[np.arange(shots * ways) * 2]`, as in learn2learn's examples.
    """

    @checked
    def __init__(self, sampler: EpisodeSampler, split: Split, n_tasks: int, seed: int, device: Device) -> None:
        if sampler.spec.target.n_classes is None:
            raise ValueError(f"expected tasks of classes, got {sampler.spec.target!r}")
        if n_tasks < -1 or n_tasks == 0:
            raise ValueError(f"expected n_tasks as -1 (without end) or at least 1, got {n_tasks}")
        self.sampler, self.split, self.num_tasks, self.seed, self.device = sampler, split, n_tasks, seed, device

    def __len__(self) -> int:
        return max(1, self.num_tasks)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if self.num_tasks == -1:
            return self.get_task(self.sample_task_description())
        if not 0 <= i < self.num_tasks:
            raise IndexError(f"expected a task from 0 to {self.num_tasks - 1}, got {i}")
        return self.get_task((0, i))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while self.num_tasks == -1:
            yield self[0]
        for i in range(self.num_tasks):
            yield self[i]

    def sample(self) -> tuple[Tensor, Tensor]:
        """A task drawn by Python's generator."""
        return self.get_task(self.sample_task_description())

    def sample_task_description(self) -> tuple[int, int]:
        """(index, task) in the sampler's list."""
        if self.num_tasks == -1:
            return random.getrandbits(62), 0
        return 0, random.randrange(self.num_tasks)

    def get_task(self, task_description: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The task (data, labels).

        Raises:
            ValueError: if a class has more shots than queries, or a part is padded.
        """
        index, task = task_description
        episodes = self.sampler.sample(Place(1, self.split, index=index, first=task, seed=self.seed), self.device)
        s, q = episodes.support, episodes.query
        if not (s.mask.all() and q.mask.all()):
            raise ValueError("expected tasks without padding; give way, shot and query as numbers, not as ranges")
        # By class, and within a class by place; queries beyond the class's shots come last.
        s_order = s.y[0].argsort(stable=True)
        shots = torch.bincount(s.y[0], minlength=self.sampler.spec.target.size)
        q_order = q.y[0].argsort(stable=True)
        sorted_y = q.y[0, q_order]
        place = (sorted_y[:, None] == sorted_y).tril().sum(1)
        late = place > shots[sorted_y]
        if int((~late).sum()) != len(s_order):
            raise ValueError("expected at least as many queries as shots of every class; raise n_query")
        by_turns = torch.stack([s_order, len(s_order) + q_order[~late]], dim=1).flatten()
        order = torch.cat([by_turns, len(s_order) + q_order[late]])
        data, labels = torch.cat([s.x[0], q.x[0]])[order], torch.cat([s.y[0], q.y[0]])[order]
        return (data.float() / 255 if data.dtype == torch.uint8 else data), labels


@contextmanager
def _seeded(*address: object) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch (on the CPU) by the address; restore them afterwards."""
    low, high = make_key(*address)
    before, numpy_before = random.getstate(), np.random.get_state()  # noqa: NPY002  # the global generator
    with torch.random.fork_rng(devices=[]):
        random.seed(high << 32 | low)
        np.random.seed([low, high])  # noqa: NPY002
        torch.default_generator.manual_seed(high << 31 | low)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)  # noqa: NPY002
