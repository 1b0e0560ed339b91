"""`TabularClassifier`: classes of the rows of a table, in scikit-learn's manner."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from metabox.estimators.classifier import FewShotClassifier
from metabox.estimators.tables import OfTables
from metabox.model import Model


class TabularClassifier(OfTables, FewShotClassifier):
    """Learns to tell classes of rows from a table, in one forward pass of a trained `TabularTransformer`.

    `X` is a data frame, or an array or a list `[n, n_features]`, of at most as many columns as the model was trained
    for: numbers, booleans, or strings, which are categories. None, NaN and NA are missing values, and so is a category
    that the examples do not have. Dates, free text and names for each row are refused by the name of their column.
    Predictions do not depend on the order of rows and columns nor on units, so that there is nothing to gain from
    averaging over them.

    Args:
        model: name of a model that comes with metabox, path of a file `*.metabox` or of a run's folder, or a `Model`.
        device: to which the model is moved; None leaves it.
        batch_size: rows to predict at a time; fewer are filled up, so that company changes rounding only.
        plugins: your own modules whose classes the model's file names; they are imported.

    Attributes:
        classes_: the labels, sorted; columns of `predict_proba` are in this order.
        model_: the model that was used. A pickle holds its hash instead if it was given by name or path.
        adaptation_: what it has learned; its `repr` tells its size.

    Raises:
        ValueError: by `fit`, if the model is no `TabularTransformer` of classes, or has fewer columns or classes.
    """

    def __init__(
        self, model: Any = "tabular-small", *, device: str | None = None, batch_size: int = 128, plugins: Any = ()
    ) -> None:
        self.model = model
        self.device = device
        self.batch_size = batch_size
        self.plugins = plugins

    def _learn_classes(self, model: Model, x: Tensor, y: NDArray[Any], classes: NDArray[Any]) -> FewShotClassifier:
        most = model.most_classes
        if most is not None and len(classes) > most:
            raise ValueError(
                f"expected at most {most} classes for this model, got {len(classes)}; put rare ones together, or train "
                f"one on TabularPrior with n_classes up to {len(classes)}; of numbers, use TabularRegressor"
            )
        return super()._learn_classes(model, x, y, classes)
