"""Which validation score chooses the weights: its metric, its tasks, and auxiliary ones that count 0."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import metabox
from metabox.evaluation import Scores
from metabox.learners import HardSharing
from metabox.nn.backbones import MLP
from metabox.reports.seeds import scores_of_run
from metabox.targets import Classes, Part, Parts, Reals, TaskSpec
from metabox.tasks.named import InMemory
from metabox.tasks.rows import Rows
from metabox.tensors import load_tensors
from metabox.training.selection import Select

NAMED = TaskSpec((2,), Classes(2), descriptor_size=2, index_size=2, tasks=("main", "aux"))
PARTS = TaskSpec((2,), Parts([Part("depth", Reals(1)), Part("kind", Classes(2))]))
OF_NAMED = Scores("val", 0, {"nll": [1.0, 5.0, 3.0], "accuracy": [0.8, 0.1, 0.6]}, ["main", "aux", "main"])
OF_PARTS = Scores(
    "val",
    0,
    {"nll": [1.0, 2.0], "squared_error_depth": [4.0, math.nan], "accuracy_kind": [0.5, 1.0]},
    pooled={"auroc_kind": 0.9},
)


@pytest.mark.parametrize(
    ("spec", "scores", "select", "name", "goodness"),
    [
        (NAMED, OF_NAMED, Select(), "accuracy", 0.5),
        (NAMED, OF_NAMED, Select("nll"), "nll", -3.0),
        (NAMED, OF_NAMED, Select(None, ("main",)), "accuracy_main", 0.7),
        (NAMED, OF_NAMED, Select("nll", ("main",)), "nll_main", -2.0),
        (NAMED, OF_NAMED, Select("nll", ("main", "aux")), "nll_main_aux", -3.5),
        (PARTS, OF_PARTS, Select(), "nll", -1.5),
        (PARTS, OF_PARTS, Select("squared_error", ("depth",)), "squared_error_depth", -4.0),
        (PARTS, OF_PARTS, Select("accuracy", ("kind",)), "accuracy_kind", 0.75),
        (PARTS, OF_PARTS, Select("auroc", ("kind",)), "auroc_kind", 0.9),
        (PARTS, OF_PARTS, Select("auroc", ("depth",)), "auroc_depth", -math.inf),
    ],
)
def test_the_chosen_score_is_that_of_the_tasks_that_count(
    spec: TaskSpec, scores: Scores, select: Select, name: str, goodness: float
) -> None:
    assert select.score(spec, scores)[0] == name
    assert select.goodness(spec, scores) == pytest.approx(goodness)


def tasks() -> InMemory:
    """Two numbers of one x; the second has the opposite sign in validation, so that it is worse the more is learned."""
    torch.manual_seed(0)
    x = torch.randn(120, 2)
    split = np.array(["train", "train", "val", "test"])[np.arange(120) % 4]
    y = torch.stack([x[:, 0], x[:, 1] * torch.from_numpy(np.where(split == "train", 1.0, -1.0)).float()], 1)
    spec = TaskSpec((2,), Parts([Part("main", Reals(1)), Part("aux", Reals(1))]))
    return InMemory(Rows(x=x, y=y, split=split, spec=spec), n_support=0, n_query=16)


OUTER = metabox.OuterLoop(
    steps=48, n_tasks=2, lr=3e-2, warmup=0, validate_every=6, n_validation=4, precision="32", schedule="constant"
)
LEARNER = partial(HardSharing, backbone=partial(MLP, width=32))


def test_a_run_keeps_the_weights_that_are_best_in_the_task_that_matters(tmp_path: Path) -> None:
    metabox.run(tasks(), LEARNER, OUTER, select=Select("squared_error", ("main",)), out=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    val = {line["step"]: line["val"] for line in lines if "val" in line}
    best = min(val, key=lambda step: val[step]["squared_error_main"])
    assert load_tensors(tmp_path / "best.safetensors")[1]["step"] == str(best)
    assert best != min(val, key=lambda step: val[step]["nll"]), "the auxiliary task would have chosen otherwise"


@pytest.mark.parametrize(
    ("select", "says"),
    [
        (Select("accuracy"), "select with a metric of the validation"),
        (Select("squared_error_main"), None),
        (Select("squared_error", ("nobody",)), r"select with tasks among \['main', 'aux'\]"),
        (Select("nll", ("main",)), "name the metric without the part"),
    ],
)
def test_what_cannot_choose_is_refused_before_anything_is_written(
    tmp_path: Path, select: Select, says: str | None
) -> None:
    outer = metabox.OuterLoop(steps=1, n_tasks=1, validate_every=1, n_validation=1, precision="32")
    if says is None:
        metabox.run(tasks(), LEARNER, outer, select=select, out=tmp_path / "run")
        return
    with pytest.raises(ValueError, match=says):
        metabox.run(tasks(), LEARNER, outer, select=select, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_coverage_has_no_best_value() -> None:
    with pytest.raises(ValueError, match="best value"):
        Select("coverage")


def test_a_recipe_says_which_task_matters(tmp_path: Path) -> None:
    from metabox.cli.main import main

    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "tasks: {class_path: CorrelatedRegressions, init_args: {correlation: 0.5, n_query: 8}}\n"
        "learner: {class_path: HardSharing, init_args: {backbone: {class_path: MLP}}}\n"
        "outer: {steps: 2, n_tasks: 2, validate_every: 1, n_validation: 2}\n"
        "select: {metric: squared_error, tasks: [target_2]}\nn_test: 4\n"
    )
    main(["train", str(recipe), "--out", str(tmp_path / "run")])
    assert scores_of_run(tmp_path / "run")["chosen_by"] == "squared_error_target_2"
