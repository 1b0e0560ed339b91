"""Fit and predict in scikit-learn's manner, over trained models."""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(
    __name__,
    "classifier.FewShotClassifier",
    "multitask.MultiTaskEstimator",
    "regressor.FewShotRegressor",
    "tabular_classifier.TabularClassifier",
    "tabular_regressor.TabularRegressor",
)
__all__ = __dir__()
