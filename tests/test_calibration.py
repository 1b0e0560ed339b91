"""The temperature makes probabilities right as often as they say, and changes no answer."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from toys import Signs, Toy

from metabox import FewShotClassifier
from metabox.calibration import calibrated
from metabox.evaluation import calibration_error, evaluate
from metabox.learners import CNP, ProtoNet
from metabox.learners.base import Phi
from metabox.model import Model
from metabox.nn.backbones import Flatten
from metabox.targets import Classes, Reals, TaskSpec
from metabox.tasks import Glyphs, Sinusoids
from metabox.tasks.place import Place


class Sure(ProtoNet):
    """A prototypical network whose logits are `factor` times as large."""

    factor = 1.0

    def answer(self, phi: Phi, x: torch.Tensor) -> torch.Tensor:
        return self.factor * super().answer(phi, x)


def sure(factor: float) -> Model:
    learner = Sure(TaskSpec((3,), Classes(2)), backbone=Flatten)
    learner.factor = factor
    return Model(learner)


def test_the_temperature_undoes_a_factor_and_is_where_the_likelihood_is_largest() -> None:
    best = calibrated(sure(1.0), Signs(), n_tasks=100).temperature
    assert calibrated(sure(7.0), Signs(), n_tasks=100).temperature == pytest.approx(7 * best, rel=1e-3)

    def nll(temperature: float) -> float:
        return evaluate(sure(1 / temperature).learner, Signs(), split="val", n_tasks=100).mean("nll")

    assert nll(best) < min(nll(best * 1.02), nll(best / 1.02))


def test_probabilities_are_calibrated_and_labels_stay() -> None:
    model = sure(20.0)
    cool = calibrated(model, Signs(), n_tasks=100)
    episodes = Signs().sample(Place(100, "test"))
    errors = []
    for one in (model, cool):
        sure_of, right = [], []
        for t in range(len(episodes)):
            support, query = episodes.support[t : t + 1], episodes.query[t : t + 1]
            proba = FewShotClassifier(one).fit(support.x[0].numpy(), support.y[0].numpy()).predict_proba(query.x[0])
            if proba.shape[1] == 2:
                sure_of.append(torch.from_numpy(proba).max(1).values)
                right.append((torch.from_numpy(proba).argmax(1) == query.y[0]).float())
        errors.append(calibration_error(torch.cat(sure_of).float(), torch.cat(right)))
        labels = torch.cat(right)
        assert labels.mean() > 0.6
    assert errors[1] < 0.5 * errors[0]


def test_classes_outside_a_task_have_no_part_in_it() -> None:
    torch.manual_seed(0)
    learner = ProtoNet(TaskSpec((1, 28, 28), Classes(9)), backbone=Flatten)
    ragged, few = Glyphs(n_way=(2, 5), n_shot=1, n_query=2), Glyphs(n_way=(2, 3), n_shot=1, n_query=2)
    for tasks in (ragged, few):
        assert 1 < calibrated(Model(learner), tasks, n_tasks=20).temperature < 900


@pytest.mark.parametrize(
    ("model", "tasks", "said"),
    [
        (Model(CNP(TaskSpec((1,), Reals(1)))), Sinusoids(), "expected a model and tasks of classes"),
        (sure(1.0), Glyphs(n_way=2, n_shot=1, n_query=1), "expected tasks of the kind"),
    ],
)
def test_tasks_of_another_kind_are_refused(model: Model, tasks: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        calibrated(model, tasks)  # type: ignore[arg-type]


def test_the_learner_stays_as_it_was() -> None:
    learner = Toy(Signs.spec)
    before = copy.deepcopy(learner.state_dict())
    model = Model(learner)
    after = calibrated(model, Signs(), n_tasks=10)
    assert after.temperature != model.temperature == 1
    assert replace(after, temperature=1.0) == model
    assert all(torch.equal(before[name], part) for name, part in learner.state_dict().items())
