"""What a person sees of objects and of long work: a line each."""

from __future__ import annotations

import io
import sys
from functools import partial

import pytest
import torch
from toys import Signs, Toy

import metabox
from metabox import Episodes, Examples, OuterLoop, evaluation
from metabox.evaluation import Scores
from metabox.learners import InContext
from metabox.nn.backbones import Conv4
from metabox.tasks import GaussianProcess, Glyphs
from metabox.tasks.functions.kernels import RBF
from metabox.tasks.place import Place

TASKS = Glyphs(n_way=3, n_query=2)
SHOWN: dict[str, tuple[object, str]] = {
    "a sampler": (TASKS, "Glyphs(n_way=3, n_query=2)"),
    "one with its defaults": (Glyphs(), "Glyphs()"),
    "an inner object": (GaussianProcess(kernel=RBF(length_scale=0.5)), "GaussianProcess(kernel=RBF(length_scale=0.5))"),
    "a learner": (
        InContext(TASKS.spec, backbone=partial(Conv4, width=8), depth=1),
        "InContext(spec=TaskSpec(x_shape=[1, 28, 28], target=Classes(size=3)), backbone=Conv4(width=8), depth=1)",
    ),
    "examples": (
        Examples(x=torch.zeros(2, 5, 3), y=torch.zeros(2, 5).long()),
        "Examples(x=float32 [2, 5, 3], y=int64 [2, 5], mask=bool [2, 5])",
    ),
    "scores": (
        Scores("test", 0, {"nll": [0.5] * 100, "accuracy": [0.9] * 100}),
        "Scores(accuracy 90% ± 0%, nll 0.5 ± 0 (100 test tasks, 95% interval over tasks))",
    ),
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_repr_is_a_line_without_what_has_its_default(name: str) -> None:
    value, wanted = SHOWN[name]
    assert repr(value) == wanted
    assert len(wanted) <= 120


def test_episodes_are_shown_by_their_sizes() -> None:
    episodes: Episodes = TASKS.sample(Place(4))
    assert repr(episodes) == (
        "Episodes(4 tasks, 3 support and 6 query examples, x uint8 [4, 6, 1, 28, 28], classes, origin)"
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_training_shows_the_validation_score_and_evaluation_how_far_it_is(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    outer = OuterLoop(steps=4, n_tasks=2, warmup=0, validate_every=2, n_validation=4)
    learner = metabox.run(Signs(), Toy, outer, out=tmp_path / "run")
    assert "val_accuracy=" in terminal.getvalue()
    bar = evaluation.tqdm
    monkeypatch.setattr(evaluation, "tqdm", lambda of, **given: bar(of, **given | {"delay": 0, "mininterval": 0}))
    before = len(terminal.getvalue())
    metabox.evaluate(learner, Signs(), n_tasks=6, batch=2)
    assert "test tasks" in terminal.getvalue()[before:]
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    metabox.evaluate(learner, Signs(), n_tasks=6, batch=2)
    assert not log.getvalue()
