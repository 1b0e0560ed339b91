"""`FewShotRegressor`: real numbers with their uncertainty from a few examples, in scikit-learn's manner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from metabox.checks import check
from metabox.estimators.base import FewShot, check_same_length, or_unchanged
from metabox.model import Model
from metabox.ranges import Count, Natural
from metabox.targets.vector import RealVector

Floats = NDArray[np.float64]
LARGEST = 1e100
"""Of y, so that its squares are finite."""


class FewShotRegressor(RegressorMixin, FewShot):  # type: ignore[misc]  # scikit-learn has no types
    """Learns a function from a few of its values, in one forward pass of a trained model.

    Inputs `X` are an array `[n, n_features]`, or images as for `FewShotClassifier`; targets y are `[n]` or `[n, size]`,
    in any unit if the model has a scale. Of a model with several numbers in y, each is predicted on its own.

    Args:
        model: path of a file `*.metabox` or of a run's folder, name of a model that comes with metabox, or a `Model`.
        views: as for `FewShotClassifier`.
        device: to which the model is moved; None leaves it.
        batch_size: queries at a time, for memory.
        plugins: your own modules whose classes the model's file names; they are imported.

    Attributes:
        model_: the model that was used.
        adaptation_: what it has learned; its `repr` tells its size.

    Raises:
        ValueError: by `fit`, if the targets of the model are no real numbers.
    """

    @or_unchanged
    def fit(self, X: Any, y: Any) -> FewShotRegressor:
        """Learn from examples X and their values y, and forget all earlier ones.

        Raises:
            ValueError: if they are not of the model's kind.
        """
        model = self._begin()
        return self._learn_values(model, *self._examples(model, X, y, reset=True))

    @or_unchanged
    def partial_fit(self, X: Any, y: Any) -> FewShotRegressor:
        """Add examples to the earlier ones.

        Raises:
            ValueError: as for `fit`; or if the estimator was loaded from a file, which holds no examples.
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, y)
        x, y = self._examples(self.model_, X, y, reset=False)
        return self._learn_values(self.model_, *self._add(x, y))

    @classmethod
    def load(cls, path: str | Path, device: str | None = None, plugins: Any = ()) -> FewShotRegressor:
        """The estimator in a file that `save` wrote; the file may be untrusted, and the device another.

        Raises:
            ValueError: if it is no such file.
        """
        made: FewShotRegressor = cls._load(path, device, plugins)
        return made

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The mean of each prediction, and with `return_std` its standard deviation too: `[n]` or `[n, size]`."""
        params = self._predict(X)
        target = self._target()
        mean = self._shaped(target.mean(params[None])[0])
        return (mean, self._shaped(target.std(params[None])[0])) if return_std else mean

    def predict_quantiles(self, X: Any, q: Sequence[float] = (0.05, 0.5, 0.95)) -> Floats:
        """The quantiles q of each prediction, `[n, len(q)]` or `[n, len(q), size]`.

        Raises:
            ValueError: if one of q is not between 0 and 1.
        """
        params, target = self._predict(X)[None], self._target()
        return np.stack([self._shaped(target.quantile(params, float(part))[0]) for part in q], axis=1)

    def sample(self, X: Any, n_samples: int = 1, random_state: int = 0) -> Floats:
        """Values drawn from each prediction on its own, `[n, n_samples]` or `[n, n_samples, size]`.

        Raises:
            ValueError: if n_samples is below 1.
        """
        params, target = self._predict(X), self._target()
        seed = torch.Generator().manual_seed(check("random_state", random_state, Natural))
        n = check("n_samples", n_samples, Count)
        q = torch.rand(n, len(params), target.size, generator=seed, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
        return np.stack([self._shaped(target.quantile(params[None], part[None])[0]) for part in q], axis=1)

    def _target(self) -> RealVector:
        target: RealVector = self.model_.spec.target  # type: ignore[assignment]  # checked by `fit`
        return target

    def _check_kind(self, model: Model) -> None:
        if not isinstance(model.spec.target, RealVector):
            raise ValueError(f"expected a model of real numbers for FewShotRegressor, got {model.spec.target!r}")

    def _examples(self, model: Model, X: Any, y: Any, *, reset: bool) -> tuple[Tensor, NDArray[Any]]:
        x = self._inputs(model, X, reset=reset)
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        try:
            y = np.asarray(y)
            y = y if (kind := y.dtype.kind) in "Mmc" else y.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"expected y as numbers, got something else: {error}") from error
        if kind in "Mmc":  # NumPy would make something of them
            raise ValueError(f"expected y as real numbers, got {'complex numbers' if kind == 'c' else 'dates'}")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_same_length(x, y)
        if not np.isfinite(y).all():
            raise ValueError("expected finite y, got NaN or infinity")
        if np.abs(y).max(initial=0) > LARGEST:
            raise ValueError(f"expected y between -{LARGEST:g} and {LARGEST:g}, got {np.abs(y).max():g}; divide it")
        return x, y

    def _learn_values(self, model: Model, x: Tensor, y: NDArray[Any]) -> FewShotRegressor:
        self._learn(model, x, y, model.targets(y, len(x)), None)
        return self

    def _shaped(self, values: Tensor) -> Floats:
        """`[n, size]` as y was given: without the last axis if y was `[n]`."""
        flat = self._y.ndim == 1 if "_y" in vars(self) else values.shape[-1] == 1
        found: Floats = values.double().cpu().numpy()
        return found[:, 0] if flat else found
