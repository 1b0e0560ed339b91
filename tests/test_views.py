"""Evaluation on several views."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from metabox import Model, Place, QueryLoss, evaluate
from metabox.discover import models
from metabox.learners import CNP, InContext
from metabox.targets import Classes, Reals, TaskSpec
from metabox.tasks import Glyphs
from metabox.views import Views


def test_it_predicts_what_a_model_does_with_as_many_views() -> None:
    model = Model.load(models()["characters"])
    episodes = Glyphs(n_way=3, n_shot=2, n_query=2).sample(Place(2, "test"))
    params, _ = Views(model.learner, n_views=4).predictions(episodes)
    for i in range(2):
        x, y = episodes.support.x[i], episodes.support.y[i]
        wanted = Model(model.learner).predict(model.adapted(x, y, (0, 1, 2), views=4), episodes.query.x[i])
        torch.testing.assert_close(params[i, :, :3].exp(), wanted, rtol=1e-4, atol=1e-5)


def test_one_view_is_the_query_loss_and_more_are_other_and_better_answers() -> None:
    learner, tasks = Model.load(models()["characters"]).learner, Glyphs(n_way=20, n_shot=1, n_query=1)
    one, plain, five = (
        evaluate(learner, tasks, n_tasks=12, batch=4, objective=objective)
        for objective in (partial(Views, n_views=1), QueryLoss, partial(Views, n_views=5))
    )
    assert one.per_task == plain.per_task
    assert five.mean("nll") < plain.mean("nll")


def test_padding_and_label_sets_stay_those_of_each_task() -> None:
    torch.manual_seed(0)
    tasks = Glyphs(n_way=(2, 4), n_shot=(1, 3), n_query=2)
    learner = InContext(tasks.spec).eval()
    episodes = tasks.sample(Place(3, "test"))
    together, _ = Views(learner, 3).predictions(episodes)
    for i in range(3):
        alone, _ = Views(learner, 3).predictions(episodes[i : i + 1])
        torch.testing.assert_close(together[i : i + 1].exp(), alone.exp(), rtol=1e-4, atol=1e-5)
    assert (together.exp()[~episodes.classes[:, None].expand_as(together)] == 0).all()


@pytest.mark.parametrize("n_views", [0, -1, 1.5, None])
def test_a_number_of_views_that_is_none_is_refused(n_views: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        Views(InContext(TaskSpec((1, 28, 28), Classes(3))), n_views=n_views)


def test_learners_of_vectors_and_images_of_floats_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a learner of images for Views, got one of \[2\]"):
        Views(CNP(TaskSpec((2,), Reals(1))))
    episodes = Glyphs(n_way=2, n_shot=1, n_query=1).sample(Place(1, "test"))
    support, query = (replace(part, x=part.x / 255) for part in (episodes.support, episodes.query))
    with pytest.raises(ValueError, match=r"expected uint8 images for Views, got torch\.float32"):
        Views(InContext(Glyphs(n_way=2).spec)).predictions(replace(episodes, support=support, query=query))
