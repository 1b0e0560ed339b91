# Written by `python -m metabox.stubs`.

from metabox.estimators.classifier import FewShotClassifier as FewShotClassifier
from metabox.estimators.multitask import MultiTaskEstimator as MultiTaskEstimator
from metabox.estimators.regressor import FewShotRegressor as FewShotRegressor
