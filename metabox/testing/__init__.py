"""The conformance suite: what every learner must pass, importable for your own learners.

from metabox.testing import check_learner
check_learner(MyLearner)
"""

from metabox.discover import lazy

__getattr__, __dir__ = lazy(
    __name__,
    "cases.SPECS",
    "cases.build",
    "cases.make_episodes",
    "cases.outputs",
    "checks.CHECKS",
    "checks.check_learner",
)
