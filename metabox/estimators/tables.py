"""What the estimators of tables share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from metabox.checks import check
from metabox.data.table import Column, Columns, columns_of, joined
from metabox.estimators.base import FewShot
from metabox.learners.tabular_transformer import TabularTransformer
from metabox.model import Model, load_file
from metabox.ranges import Count


class OfTables(FewShot):
    """A trained `TabularTransformer` that learns from the rows of a table; the base of the estimators."""

    views = 1

    @classmethod
    def _load(cls, path: str | Path, device: str | None, plugins: Any) -> Any:
        model, adaptation = load_file(path, device or "cpu", plugins)
        if adaptation is None or adaptation.columns is None:
            raise ValueError(f"expected what `save` of {cls.__name__} wrote in {path}, got something else")
        made = cls(model, device=device, plugins=plugins)
        made._check_kind(model)
        made.model_, made.adaptation_, made.n_features_in_ = model, adaptation, len(adaptation.columns.levels)
        made._columns = adaptation.columns
        if adaptation.columns.names:
            made.feature_names_in_ = np.array(adaptation.columns.names, dtype=object)
        return made

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.categorical = tags.input_tags.string = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if not isinstance(self.model, Model):  # it is found again by its name, and its weights told by their hash
            state.pop("model_", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "adaptation_" not in state or "model_" in state:
            return
        self.model_ = self._model()
        if self.model_.fingerprint != self.adaptation_.model:
            raise ValueError(
                f"expected the weights that this estimator was fitted with, {self.adaptation_.model}, in "
                f"{str(self.model)!r}, got {self.model_.fingerprint}; fit again, or bring back that file"
            )

    def _check_kind(self, model: Model) -> None:
        super()._check_kind(model)
        if not isinstance(model.learner, TabularTransformer):
            raise ValueError(
                f"expected a model whose learner is TabularTransformer, got {type(model.learner).__name__}; "
                "FewShotClassifier and FewShotRegressor take others"
            )

    def _table(self, model: Model, x: Any, *, reset: bool) -> list[Column]:
        """The columns of a table.

        Raises:
            ValueError: if it has too many columns, or of other kinds than the examples.
        """
        if hasattr(x, "columns") and hasattr(x, "dtypes"):
            validate_data(self, x, reset=reset, skip_check_array=True)
            if 0 in x.shape:
                raise ValueError(
                    f"Found array with 0 sample(s) or 0 feature(s) (shape={x.shape}), at least 1 is required"
                )
        else:
            if isinstance(x, (list, tuple)) and np.asarray(x).dtype.kind in "US":  # NumPy makes numbers strings
                x = np.asarray(x, dtype=object)
            x = validate_data(self, x, dtype=None, ensure_all_finite=False, reset=reset)
        most = model.spec.x_shape[0]
        if x.shape[1] > most:
            raise ValueError(f"expected at most {most} columns for this model, got {x.shape[1]}; drop some")
        return columns_of(x)

    @property
    def _names(self) -> list[Any]:
        return list(getattr(self, "feature_names_in_", range(self.n_features_in_)))

    def _inputs(self, model: Model, x: Any, *, reset: bool) -> Tensor:
        columns = self._table(model, x, reset=reset)
        if reset:
            self._columns = Columns.of(columns, self._names)
        return self._encoded(columns)

    def _encoded(self, columns: list[Column]) -> Tensor:
        return torch.tensor(self._columns.encode(columns, self._names))

    def _examples(self, model: Model, X: Any, y: Any, *, reset: bool) -> tuple[Tensor, NDArray[Any]]:
        x, y = super()._examples(model, X, y, reset=reset)
        self._newest = self._table(model, X, reset=False)
        return x, y

    def _add(self, x: Tensor, y: NDArray[Any]) -> tuple[Tensor, NDArray[Any]]:
        if "_rows" not in vars(self):
            raise ValueError("expected an estimator with its examples, got a saved one, which has none; use fit")
        rows = [joined(*pair) for pair in zip(self._rows, self._newest, strict=True)]
        self._columns, self._newest = Columns.of(rows, self._names), rows
        return self._encoded(rows), np.concatenate([self._y, y])

    def _learn(self, model: Model, x: Tensor, y: NDArray[Any], ids: Tensor, classes: tuple[Any, ...] | None) -> None:
        dtype = next(model.learner.parameters()).dtype
        adaptation = model.adapted(x.to(model.device, dtype), ids, classes)
        self.model_, self.adaptation_ = model, adaptation.with_inputs(self.n_features_in_, self._columns)
        self._rows, self._y = self._newest, y
        del self._newest

    @torch.no_grad()
    def _predict(self, x: Any) -> Tensor:
        check_is_fitted(self)
        batch = check("batch_size", self.batch_size, Count)
        model, adaptation = self.model_, self.adaptation_
        given = self._encoded(self._table(model, x, reset=False))
        order = torch.from_numpy(np.lexsort(given.numpy().T))  # rounding may depend on a row's place in its batch
        known = given[order].to(model.device, next(model.learner.parameters()).dtype)
        phi = {name: part.to(model.device) for name, part in adaptation.phi.items()}
        parts = []
        for rows in known.split(batch):  # all of one shape, for other shapes round otherwise
            filled = torch.cat([rows, rows[-1:].expand(batch - len(rows), -1)])
            parts.append(model.answers(model.params(phi, filled[None]), adaptation)[: len(rows)])
        return torch.cat(parts).cpu()[order.argsort()]
