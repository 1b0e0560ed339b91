"""`MultiTaskEstimator`: several targets of the same inputs, of any kind, some labels missing, in one network."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from metabox.checks import check, shown
from metabox.data.given import as_inputs
from metabox.episodes import Examples
from metabox.learners.base import Learner
from metabox.learners.multitask.hard_sharing import HardSharing
from metabox.ranges import Count, Positive, TwoOrMore, Whole
from metabox.targets import Classes, Part, Parts, Reals, Target, TaskSpec
from metabox.tasks.named import InMemory
from metabox.tasks.rows import Rows
from metabox.training.loop import run
from metabox.training.settings import OuterLoop

N_VALIDATIONS = 10
N_QUERY = 16


class MultiTaskEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Trains one network on several targets of the same inputs: classes and real numbers, each with labels missing.

    Every fifth row of a task is held out, and chooses among the weights along the training.

    Args:
        learner: makes the network from a `TaskSpec` whose target has parts; by default `HardSharing`.
        targets: the kind of each target, by name, instead of what its labels look like: `Laplace(1)` for L1,
            `Classes(3)` for class labels that are floats. Names that are left out are read from the labels.
        steps: of training.
        batch_size: rows in a step, at most.
        lr: learning rate.
        seed: of the initial weights and of all draws.

    Attributes:
        learner_: the trained network.
        classes_: by name, the labels of each target that is a class, sorted.
        tasks_: the names of the tasks, sorted; empty if none were given.
    """

    learner_: Learner
    classes_: dict[str, NDArray[Any]]
    tasks_: NDArray[Any]

    def __init__(
        self,
        learner: Callable[[TaskSpec], Learner] = HardSharing,
        *,
        targets: Mapping[str, Target] | None = None,
        steps: int = 500,
        batch_size: int = 64,
        lr: float = 3e-3,
        seed: int = 0,
    ) -> None:
        self.learner = learner
        self.targets = targets
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.seed = seed

    def fit(self, X: Any, y: Mapping[str, Any], task: Any = None) -> MultiTaskEstimator:
        """Train on inputs and the labels of each target.

        Args:
            X: vectors `[n, d]`, or images `[n, channels, height, width]` as uint8.
            y: by name, labels `[n]`, or `[n, size]` of real vectors. Floats are real numbers, and anything else is a
                class; NaN, and None among classes, is a label that is missing.
            task: the name of each row's task, `[n]`, of which the network is told; None if there is only one.

        Raises:
            ValueError: if X, y and task do not have the same number of rows, a target has no label, or a task has
                fewer than two rows.
        """
        check("steps", self.steps, Count)
        check("batch_size", self.batch_size, TwoOrMore)
        check("lr", self.lr, Positive)
        check("seed", self.seed, Whole)
        if not isinstance(y, Mapping) or not y:
            raise ValueError(f"expected y as a dictionary of labels by name of the target, got {shown(y)}")
        if unknown := sorted(set(self.targets or ()) - set(y)):
            raise ValueError(f"expected targets among the names of y, {sorted(y)}, got {unknown}")
        self._x_shape = tuple(np.shape(X)[1:])
        x = self._inputs(X)
        self.classes_, self._flat = {}, set[str]()
        columns, parts = [], []
        for name, labels in y.items():
            part, column = self._part(str(name), labels, len(x))
            parts.append(part)
            columns.append(column)
        self.tasks_, of_row = self._tasks(task, len(x))
        several = len(self.tasks_) > 1
        spec = TaskSpec(
            self._x_shape,
            Parts(parts),
            descriptor_size=len(self.tasks_) if several else 0,
            index_size=len(self.tasks_) if several else 0,
            tasks=tuple(map(str, self.tasks_)) if several else (),
        )
        split = _split(of_row, self.seed)
        rows = Rows(
            x=x,
            y=torch.from_numpy(np.concatenate(columns, axis=1)).float(),
            split=split,
            spec=spec,
            task=of_row if several else None,
        )
        n_tasks = max(1, self.batch_size // N_QUERY)
        held_out = np.bincount(of_row[split == "val"])
        outer = OuterLoop(
            steps=self.steps,
            n_tasks=n_tasks,
            lr=self.lr,
            warmup=min(100, self.steps // 5),
            validate_every=max(1, self.steps // N_VALIDATIONS),
            n_validation=max(1, len(self.tasks_)),
        )
        with tempfile.TemporaryDirectory() as folder:
            self.learner_ = run(
                InMemory(rows, n_query=max(1, self.batch_size // n_tasks)),
                self.learner,
                outer,
                evaluation=InMemory(rows, n_query=int(held_out.max())),
                seed=self.seed,
                out=folder,
            )
        return self

    def predict(self, X: Any, task: Any = None) -> dict[str, NDArray[Any]]:
        """By name of the target, the likeliest class `[n]`, or the mean `[n]` or `[n, size]` in the units of y.

        Raises:
            ValueError: if X is not as in `fit`, or a task is unknown.
        """
        found: dict[str, NDArray[Any]] = {}
        for part, answer in self._answers(X, task):
            if part.name in self.classes_:
                labels = self.classes_[part.name]
                found[part.name] = labels[answer[:, : len(labels)].argmax(1)]
            else:
                found[part.name] = answer[:, 0] if part.name in self._flat else answer
        return found

    def predict_proba(self, X: Any, task: Any = None) -> dict[str, NDArray[np.float64]]:
        """By name of each target that is a class, the probabilities `[n, len(classes_[name])]`.

        Raises:
            ValueError: as for `predict`.
        """
        found = {}
        for part, answer in self._answers(X, task):
            if part.name in self.classes_:
                p = answer[:, : len(self.classes_[part.name])]
                found[part.name] = p / p.sum(1, keepdims=True)
        return found

    @torch.no_grad()
    def _answers(self, X: Any, task: Any) -> list[tuple[Part, NDArray[np.float64]]]:
        check_is_fitted(self)
        x, target = self._inputs(X), self.learner_.spec.target
        assert isinstance(target, Parts)
        names, of_row = np.zeros(1), np.zeros(len(x), dtype=np.int64)
        if len(self.tasks_) > 1:
            names, of_row = self.tasks_, self._known(task, len(x))
        answers = {part.name: np.zeros((len(x), part.size)) for part in target.parts}
        for k in range(len(names)):
            (mine,) = np.nonzero(of_row == k)
            if not len(mine):
                continue
            z = torch.eye(len(names))[k : k + 1] if len(names) > 1 else None
            empty = Examples(x=x[None, :0], y=torch.zeros(1, 0, target.size), mask=torch.zeros(1, 0, dtype=torch.bool))
            params = self.learner_.predict(self.learner_.adapt(empty, z), x[mine][None])
            for name, values in target.answers(params[0]).items():
                answers[name][mine] = values.double().numpy()
        return [(part, answers[part.name]) for part in target.parts]

    def _inputs(self, X: Any) -> Tensor:
        shape = tuple(np.shape(X)[1:])
        if len(shape) not in (1, 3) or shape != self._x_shape or not len(X):
            wanted = f"[n, {', '.join(map(str, self._x_shape))}]" if len(self._x_shape) in (1, 3) else "[n, d]"
            raise ValueError(f"expected X as {wanted}, vectors or uint8 images, got {shown(X)}")
        x = as_inputs(X, self._x_shape, None, False)
        return x.float() if x.is_floating_point() else x

    def _part(self, name: str, labels: Any, n: int) -> tuple[Part, NDArray[np.float64]]:
        """A target as a part, and its labels as columns `[n, K]` with NaN for those that are missing."""
        target, given = (self.targets or {}).get(name), np.asarray(labels)
        if len(given.shape) not in (1, 2) or len(given) != n:
            raise ValueError(f"expected {n} labels of {name!r}, as many as rows of X, got {shown(labels)}")
        if isinstance(target, Classes) or (target is None and given.dtype.kind != "f"):
            return self._classes(name, given, target)
        try:
            values = given.astype(np.float64).reshape(n, -1)
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected numbers for {name!r}, got {shown(labels)}") from error
        if np.isinf(values).any() or np.isnan(values).all():
            raise ValueError(f"expected finite labels of {name!r}, or NaN if missing, and one at least, got others")
        if given.ndim == 1:
            self._flat.add(name)
        return Part(name, target or Reals(values.shape[1])), values

    def _classes(self, name: str, given: NDArray[Any], target: Target | None) -> tuple[Part, NDArray[np.float64]]:
        if given.ndim != 1:
            raise ValueError(f"expected one class for each row in {name!r}, got {list(given.shape)}")
        there = np.array([label is not None and label == label for label in given.tolist()])  # NaN
        if not there.any():
            raise ValueError(f"expected a label of {name!r} at least, got none")
        known = np.array(given[there].tolist()) if given.dtype.kind == "O" else given[there]
        labels, ids = np.unique(known, return_inverse=True)
        target = target or Classes(max(2, len(labels)))
        if len(labels) > target.size:
            raise ValueError(f"expected at most {target.size} classes in {name!r}, got {len(labels)}")
        self.classes_[name] = labels
        column = np.full((len(given), 1), np.nan)
        column[there, 0] = ids
        return Part(name, target), column

    def _tasks(self, task: Any, n: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        if task is None:
            names, of_row = np.array([], dtype=str), np.zeros(n, dtype=np.int64)
        else:
            names, of_row = np.unique(np.asarray(task), return_inverse=True)
        if len(of_row) != n or of_row.ndim != 1:
            raise ValueError(f"expected the task of each of {n} rows, got {shown(task)}")
        if (counts := np.bincount(of_row)).min() < 2:
            few = [str(names[k]) for k in np.nonzero(counts < 2)[0]] if len(names) else "X"
            raise ValueError(f"expected two rows of each task at least, one to train on and one to validate, in {few}")
        return names, of_row

    def _known(self, task: Any, n: int) -> NDArray[np.int64]:
        given = np.asarray(task)
        if given.shape != (n,):
            raise ValueError(f"expected the task of each of {n} rows, among {self.tasks_.tolist()}, got {shown(task)}")
        if unknown := sorted(set(given.tolist()) - set(self.tasks_.tolist()), key=str):
            raise ValueError(f"expected tasks among {self.tasks_.tolist()}, got {unknown[:5]}")
        return np.searchsorted(self.tasks_, given)


def _split(of_row: NDArray[np.int64], seed: int) -> NDArray[np.str_]:
    """ "train" or "val" for each row: every fifth of each task, in random order, and one at least."""
    split = np.full(len(of_row), "train")
    random = np.random.default_rng(seed)
    for k in range(int(of_row.max()) + 1):
        (mine,) = np.nonzero(of_row == k)
        split[random.permutation(mine)[: max(1, len(mine) // 5)]] = "val"
    return split
