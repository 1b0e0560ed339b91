"""Queries of many tasks in few passes are answered as each alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metabox.data.preprocessing import Preprocessing
from metabox.learners import CNP, InContext, ProtoNet
from metabox.learners.base import Learner
from metabox.model import Model
from metabox.nn.backbones import Flatten
from metabox.querying import predict_many
from metabox.targets import Classes, Reals, TaskSpec

IMAGES = TaskSpec((1, 8, 8), Classes(4))


def images(n: int, seed: int) -> Tensor:
    return torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def model_of(make: type[Learner]) -> Model:
    torch.manual_seed(0)
    return Model(make(IMAGES, backbone=Flatten), Preprocessing(1, 8), temperature=0.7)  # type: ignore[call-arg]


@pytest.mark.parametrize("make", [ProtoNet, InContext])
@pytest.mark.parametrize("views", [1, 3])
def test_tasks_of_any_way_shot_and_number_of_queries_get_what_each_gets_alone(make: type[Learner], views: int) -> None:
    model = model_of(make)
    labels = ["ab", "abab", "ab", "abcabc", "ba", "abcd"]
    adaptations = [model.adapt(images(len(y), i), list(y), views=views) for i, y in enumerate(labels)]
    inputs = [images(m, 9 + m) for m in (1, 3, 2, 1, 5, 0)]
    found = predict_many(model, adaptations, inputs)
    for answer, adaptation, x in zip(found, adaptations, inputs, strict=True):
        torch.testing.assert_close(answer, model.predict(adaptation, x), rtol=0, atol=1e-5)
    assert [list(answer.shape) for answer in found] == [[1, 2], [3, 2], [2, 2], [1, 3], [5, 2], [0, 4]]


def test_alike_tasks_share_a_pass_and_a_batch_bounds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(InContext)
    adaptations = [model.adapt(images(4, i), list("abab")) for i in range(10)]
    inputs = [images(1 + i % 2, i) for i in range(10)]
    passes: list[tuple[int, int]] = []
    predict = model.learner.predict

    def counted(phi: dict[str, Tensor], x: Tensor) -> Tensor:
        passes.append((x.shape[0], x.shape[1]))
        return predict(phi, x)

    monkeypatch.setattr(model.learner, "predict", counted)
    predict_many(model, adaptations, inputs)
    assert passes == [(10, 2)]
    passes.clear()
    predict_many(model, adaptations, inputs, batch=6)
    assert passes == [(5, 1), (3, 2), (2, 2)]


def test_real_numbers_and_their_scale_are_of_each_task_alone() -> None:
    torch.manual_seed(0)
    model = Model(CNP(TaskSpec((1,), Reals(1), scale="support")))
    tasks = [([[0.0], [1.0], [2.0]], [5.0, 6.0, 7.0]), ([[100.0], [300.0], [200.0]], [-1e4, 0.0, 1e4])]
    adaptations = [model.adapt(x, y) for x, y in tasks]
    inputs = [model.inputs([[0.5]]), model.inputs([[150.0], [250.0]])]
    for answer, adaptation, x in zip(predict_many(model, adaptations, inputs), adaptations, inputs, strict=True):
        torch.testing.assert_close(answer, model.predict(adaptation, x))


def test_an_adaptation_of_another_model_and_queries_without_one_are_refused() -> None:
    model, other = model_of(ProtoNet), model_of(InContext)
    with pytest.raises(ValueError, match="expected an adaptation of this model"):
        predict_many(model, [other.adapt(images(2, 0), ["a", "b"])], [images(1, 0)])
    with pytest.raises(ValueError, match="expected queries for each of 0 adaptations, got 1"):
        predict_many(model, [], [images(1, 0)])
