# Written by `python -m metabox.stubs`.

from metabox.estimators.classifier import FewShotClassifier as FewShotClassifier
from metabox.estimators.multitask import MultiTaskEstimator as MultiTaskEstimator
from metabox.estimators.regressor import FewShotRegressor as FewShotRegressor
from metabox.estimators.tabular_classifier import TabularClassifier as TabularClassifier
from metabox.estimators.tabular_regressor import TabularRegressor as TabularRegressor
