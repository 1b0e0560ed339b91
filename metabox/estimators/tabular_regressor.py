"""`TabularRegressor`: a number for each row of a table with its uncertainty, in scikit-learn's manner."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from metabox.estimators.regressor import FewShotRegressor
from metabox.estimators.tables import OfTables
from metabox.learners.scaler import Y
from metabox.model import Model

CERTAIN = 1e-12
"""The scale of what has one value, as a share of it."""


class TabularRegressor(OfTables, FewShotRegressor):
    """Learns to predict a number for each row from a table, in one forward pass of a trained `TabularTransformer`.

    `X` is as for `TabularClassifier`; targets y are `[n]`, in any unit if the model has a scale. If they are
    all one number, that is what is predicted.

    Args:
        model: name of a model that comes with metabox, path of a file `*.metabox` or of a run's folder, or a `Model`.
        device: to which the model is moved; None leaves it.
        batch_size: rows to predict at a time; fewer are filled up, so that company changes rounding only.
        plugins: your own modules whose classes the model's file names; they are imported.

    Attributes:
        model_: the model that was used. A pickle holds its hash instead if it was given by name or path.
        adaptation_: what it has learned; its `repr` tells its size.

    Raises:
        ValueError: by `fit`, if the model is no `TabularTransformer` of real numbers, or has fewer columns.
    """

    def __init__(
        self, model: Any = "tabular-small-reals", *, device: str | None = None, batch_size: int = 128, plugins: Any = ()
    ) -> None:
        self.model = model
        self.device = device
        self.batch_size = batch_size
        self.plugins = plugins

    def _learn(self, model: Model, x: Tensor, y: NDArray[Any], ids: Tensor, classes: tuple[Any, ...] | None) -> None:
        super()._learn(model, x, y, ids, classes)
        phi, flat = self.adaptation_.phi, y.reshape(len(y), -1)
        if Y in phi:  # of one value the model, which has not seen such tables, makes anything
            value = torch.from_numpy(flat[0]).to(phi[Y])
            certain = torch.stack([value, value.abs().clamp(min=1) * CERTAIN])
            alike = torch.from_numpy((flat == flat[0]).all(0)).to(value.device)
            self.adaptation_ = replace(self.adaptation_, phi=phi | {Y: torch.where(alike, certain, phi[Y])})
