# Written by `python -m metabox.stubs`.

from metabox.estimators.classifier import FewShotClassifier as FewShotClassifier
from metabox.estimators.regressor import FewShotRegressor as FewShotRegressor
