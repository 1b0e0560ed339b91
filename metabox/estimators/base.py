"""What both estimators share."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from metabox.adaptation import Adaptation
from metabox.checks import Function, check, shown
from metabox.model import Model, load_file
from metabox.ranges import Count
from metabox.shipped import find_model


def or_unchanged(method: Function) -> Function:
    """A method that leaves the attributes of its object as they were if it raises."""

    @wraps(method)
    def called(self: Any, *args: Any, **options: Any) -> Any:
        before = dict(vars(self))
        try:
            return method(self, *args, **options)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return cast(Function, called)


class FewShot(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A trained model that learns from examples in one forward pass; the base of the estimators."""

    model_: Model
    adaptation_: Adaptation

    def __init__(
        self, model: Any, *, views: int = 1, device: str | None = None, batch_size: int = 256, plugins: Any = ()
    ) -> None:
        self.model = model
        self.views = views
        self.device = device
        self.batch_size = batch_size
        self.plugins = plugins

    def save(self, path: str | Path) -> Path:
        """Write model, weights and what was learned as one file `*.metabox`, without the examples.

        Raises:
            ValueError: if the path has another suffix.
            OSError: if it cannot be written.
        """
        check_is_fitted(self)
        return self.model_.save(path, self.adaptation_)

    @classmethod
    def _load(cls, path: str | Path, device: str | None, plugins: Any) -> Any:
        model, adaptation = load_file(path, device or "cpu", plugins)
        if adaptation is None:
            raise ValueError(f"expected what `save` of {cls.__name__} wrote in {path}, got a model; give it to fit")
        if adaptation.columns is not None:
            raise ValueError(f"expected what `save` of {cls.__name__} wrote in {path}, got an estimator of tables")
        made = cls(model, views=adaptation.n_views, device=device, plugins=plugins)
        made._check_kind(model)
        made.model_, made.adaptation_ = model, adaptation
        if len(model.spec.x_shape) == 1 and adaptation.n_inputs is not None:
            made.n_features_in_ = adaptation.n_inputs
        return made

    def __sklearn_is_fitted__(self) -> bool:
        return "adaptation_" in vars(self)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        try:
            x_shape = self._model().spec.x_shape
        except (ValueError, OSError):
            return tags
        vectors = len(x_shape) == 1
        tags.input_tags.two_d_array = vectors
        tags.input_tags.three_d_array = not vectors
        tags.input_tags.string = len(x_shape) == 3
        tags.no_validation = not vectors
        return tags

    def _model(self) -> Model:
        """The model, read again only if its file has changed."""
        return find_model(self.model, self.device, self.plugins)

    def _check_kind(self, model: Model) -> None:
        """Raise a ValueError if the model is not for this kind of estimator."""

    def _inputs(self, model: Model, x: Any, *, reset: bool) -> Tensor:
        if len(model.spec.x_shape) == 1:
            x = validate_data(self, x, dtype=np.float64, reset=reset)
        return model.inputs(x)

    def _begin(self) -> Model:
        check("views", self.views, Count)
        check("batch_size", self.batch_size, Count)
        model = self._model()
        self._check_kind(model)
        return model

    def _add(self, x: Tensor, y: NDArray[Any]) -> tuple[Tensor, NDArray[Any]]:
        """The examples so far and these.

        Raises:
            ValueError: if the earlier ones were not kept.
        """
        if not self.__sklearn_is_fitted__():
            return x, y
        if "_x" not in vars(self):
            raise ValueError("expected an estimator with its examples, got a saved one, which has none; use fit")
        return torch.cat([self._x, x.cpu()]), np.concatenate([self._y, y])

    def _learn(self, model: Model, x: Tensor, y: NDArray[Any], ids: Tensor, classes: tuple[Any, ...] | None) -> None:
        adaptation = model.adapted(x.to(model.device), ids, classes, self.views)
        n_inputs = getattr(self, "n_features_in_", None)
        self.model_, self.adaptation_ = model, adaptation.with_inputs(n_inputs)
        self._x, self._y = x.cpu(), y

    def _predict(self, x: Any) -> Tensor:
        check_is_fitted(self)
        return self.model_.predict(self.adaptation_, self._inputs(self.model_, x, reset=False), self.batch_size).cpu()


def check_same_length(x: Tensor, y: NDArray[Any]) -> None:
    """Raise a ValueError unless there is one label for each input."""
    if y.ndim < 1 or len(x) != len(y):
        raise ValueError(f"expected a label for each of {len(x)} inputs, got {shown(y)}")
