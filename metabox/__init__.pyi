# Written by `python -m metabox.stubs`.

from metabox.adaptation import Adaptation as Adaptation
from metabox.config import Configured as Configured
from metabox.episodes import Episodes as Episodes
from metabox.episodes import Examples as Examples
from metabox.estimators.classifier import FewShotClassifier as FewShotClassifier
from metabox.estimators.regressor import FewShotRegressor as FewShotRegressor
from metabox.estimators.tabular_classifier import TabularClassifier as TabularClassifier
from metabox.estimators.tabular_regressor import TabularRegressor as TabularRegressor
from metabox.evaluation import Scores as Scores
from metabox.evaluation import evaluate as evaluate
from metabox.learners.base import Learner as Learner
from metabox.model import Model as Model
from metabox.objectives import Objective as Objective
from metabox.objectives import QueryLoss as QueryLoss
from metabox.objectives import StreamLoss as StreamLoss
from metabox.recipe import load_run as load_run
from metabox.targets.bars import Bars as Bars
from metabox.targets.base import Target as Target
from metabox.targets.binary import Binary as Binary
from metabox.targets.classes import Classes as Classes
from metabox.targets.mixture import Mixture as Mixture
from metabox.targets.parts import Part as Part
from metabox.targets.parts import Parts as Parts
from metabox.targets.reals import Reals as Reals
from metabox.targets.spec import TaskSpec as TaskSpec
from metabox.tasks.place import Place as Place
from metabox.tasks.sampler import EpisodeSampler as EpisodeSampler
from metabox.training.loop import run as run
from metabox.training.settings import OuterLoop as OuterLoop

__version__: str
