"""`FewShotClassifier`: classes from a few examples each, in scikit-learn's manner."""

from __future__ import annotations

import numbers
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from metabox.checks import check
from metabox.data.table import is_missing
from metabox.estimators.base import FewShot, check_same_length, or_unchanged
from metabox.model import Model
from metabox.ranges import Share
from metabox.targets import Classes


class FewShotClassifier(ClassifierMixin, FewShot):  # type: ignore[misc]  # scikit-learn has no types
    """Learns new classes from a few examples of each, in one forward pass of a trained model.

    Inputs `X` are what the model was trained on: for images a list of paths, of Pillow's images or of arrays `[height,
    width]` or `[height, width, channels]`, or one array with the images on axis 0 (a uint8 tensor is taken as it is,
    without preprocessing); for vectors an array `[n, n_features]`. Labels may be strings or numbers.

    Args:
        model: name of a model that comes with metabox, path of a file `*.metabox` or of a run's folder, or a `Model`.
        views: answers are averaged over this many views: the images, and small random changes of support and query.
        device: to which the model is moved; None leaves it.
        batch_size: queries at a time, for memory.
        plugins: your own modules whose classes the model's file names; they are imported.

    Attributes:
        classes_: the labels, sorted; columns of `predict_proba` are in this order.
        model_: the model that was used.
        adaptation_: what it has learned; its `repr` tells its size.

    Raises:
        ValueError: by `fit`, if the model is none of classes, or has fewer than y.
    """

    classes_: NDArray[Any]

    @or_unchanged
    def fit(self, X: Any, y: Any) -> FewShotClassifier:
        """Learn from examples X and their labels y, and forget all earlier ones.

        Raises:
            ValueError: if they are not of the model's kind, or have more classes than it can tell apart.
        """
        model = self._begin()
        x, y = self._examples(model, X, y, reset=True)
        return self._learn_classes(model, x, y, np.unique(y))

    @or_unchanged
    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> FewShotClassifier:
        """Add examples to the earlier ones; labels that are new become classes.

        Args:
            X: further examples.
            y: their labels.
            classes: labels that are to be classes even without examples.

        Raises:
            ValueError: as for `fit`; or if the estimator was loaded from a file, which holds no examples.
        """
        if not self.__sklearn_is_fitted__():
            model = self._begin()
            x, y = self._examples(model, X, y, reset=True)
            return self._learn_classes(model, x, y, _union(y, classes))
        x, y = self._examples(self.model_, X, y, reset=False)
        known = self.classes_
        x, y = self._add(x, _alike(y, known))
        return self._learn_classes(self.model_, x, y, _union(y, classes, known))

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Calibrated probabilities `[n, classes]`, columns in the order of `classes_`."""
        p = self._predict(X).double()
        proba: NDArray[np.float64] = (p / p.sum(-1, keepdim=True)).numpy()
        return proba

    def predict(self, X: Any, unknown: float | None = None) -> NDArray[Any]:
        """The most probable label of each input.

        Args:
            X: inputs.
            unknown: inputs whose most probable class is less probable than this are none of the classes: their label is
                None, and the array is one of objects.

        Raises:
            ValueError: if X is not of the model's kind, or `unknown` not between 0 and 1.
        """
        return self.labels_of(self.predict_proba(X), unknown)

    def labels_of(self, proba: NDArray[np.float64], unknown: float | None = None) -> NDArray[Any]:
        """The labels for what `predict_proba` returned; see `predict`."""
        labels: NDArray[Any] = self.classes_[proba.argmax(1)]
        if unknown is None:
            return labels
        labels = labels.astype(object)
        labels[proba.max(1) < check("unknown", unknown, Share)] = None
        return labels

    @classmethod
    def load(cls, path: str | Path, device: str | None = None, plugins: Any = ()) -> FewShotClassifier:
        """The estimator in a file that `save` wrote; the file may be untrusted, and the device another.

        Raises:
            ValueError: if it is no such file.
        """
        made: FewShotClassifier = cls._load(path, device, plugins)
        made.classes_ = np.asarray(made.adaptation_.classes)
        return made

    def _check_kind(self, model: Model) -> None:
        if not isinstance(model.spec.target, Classes):
            raise ValueError(f"expected a model of classes for FewShotClassifier, got one of {model.spec.target!r}")

    def _examples(self, model: Model, X: Any, y: Any, *, reset: bool) -> tuple[torch.Tensor, NDArray[Any]]:
        x = self._inputs(model, X, reset=reset)
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        y = _labels(column_or_1d(np.asarray(y), warn=True))
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        check_same_length(x, y)
        return x, y

    def _learn_classes(
        self, model: Model, x: torch.Tensor, y: NDArray[Any], classes: NDArray[Any]
    ) -> FewShotClassifier:
        ids = torch.from_numpy(np.searchsorted(classes, y).astype(np.int64))
        self._learn(model, x, y, ids, tuple(classes.tolist()))
        self.classes_ = classes
        return self


def _labels(y: NDArray[Any]) -> NDArray[Any]:
    """Labels of which NumPy knows the kind, if they were objects.

    Raises:
        ValueError: if one is missing, or some are strings and others not.
    """
    if y.dtype != object:
        return y
    listed = y.tolist()
    if (row := next((i for i, label in enumerate(listed) if is_missing(label)), None)) is not None:
        raise ValueError(f"expected a label for each row, got {listed[row]} in row {row}; drop the rows without one")
    texts = sum(isinstance(label, str) for label in listed)
    if 0 < texts < len(listed):
        raise ValueError("expected labels of one kind, got strings beside others; make all of them strings")
    return np.array(listed) if all(isinstance(label, (numbers.Real, np.bool_)) for label in listed) else y


def _union(y: NDArray[Any], *others: Any) -> NDArray[Any]:
    given = [_alike(np.asarray(part), y) for part in others if part is not None]
    return np.unique(np.concatenate([y, *given]))


def _alike(y: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Labels that may stand beside others: NumPy would turn numbers to strings.

    Raises:
        ValueError: if some are numbers and others strings.
    """
    text = [
        part.dtype.kind in "US" or (part.dtype.kind == "O" and isinstance(part.flat[0], str)) for part in (y, other)
    ]
    if text[0] != text[1]:
        raise ValueError(f"expected labels of one kind, got {y.dtype} beside {other.dtype}; use strings or numbers")
    return y
