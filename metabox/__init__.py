"""metabox: black-box meta-learning and multi-task learning in PyTorch.

Learners are in `metabox.learners`, task distributions in `metabox.tasks`. Names are
imported when they are first used, so that the command line answers before torch has loaded.
"""

from metabox.discover import lazy

__version__ = "0.1.0"
__getattr__, __dir__ = lazy(
    __name__,
    "adaptation.Adaptation",
    "config.Configured",
    "episodes.Episodes",
    "episodes.Examples",
    "evaluation.Scores",
    "evaluation.evaluate",
    "estimators.classifier.FewShotClassifier",
    "estimators.multitask.MultiTaskEstimator",
    "estimators.regressor.FewShotRegressor",
    "estimators.tabular_classifier.TabularClassifier",
    "estimators.tabular_regressor.TabularRegressor",
    "learners.base.Learner",
    "model.Model",
    "objectives.Objective",
    "objectives.QueryLoss",
    "objectives.StreamLoss",
    "recipe.load_run",
    "targets.bars.Bars",
    "targets.base.Target",
    "targets.binary.Binary",
    "targets.classes.Classes",
    "targets.direction.Direction",
    "targets.huber.Huber",
    "targets.laplace.Laplace",
    "targets.mixture.Mixture",
    "targets.parts.Part",
    "targets.parts.Parts",
    "targets.per_task.PerTask",
    "targets.quantiles.Quantiles",
    "targets.reals.Reals",
    "targets.spec.TaskSpec",
    "tasks.place.Place",
    "tasks.sampler.EpisodeSampler",
    "training.loop.run",
    "training.settings.OuterLoop",
)
__all__ = __dir__()
