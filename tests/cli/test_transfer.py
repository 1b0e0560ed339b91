"""`metabox transfer`: the table of a recipe's tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metabox.cli.main import main

RECIPE = """
tasks: {class_path: CorrelatedRegressions, init_args: {dim: 4, n_query: 8}}
learner: {class_path: HardSharing, init_args: {backbone: {class_path: MLP, init_args: {width: 4}}}}
outer: {steps: 2, n_tasks: 1, warmup: 0, validate_every: 2, n_validation: 1}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text(RECIPE)
    return "two.yaml"


def test_it_prints_the_cost_and_the_table_and_writes_it(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    metric = "target_1=squared_error,target_2=squared_error"
    assert main(["transfer", recipe, "--seeds", "1", "--metric", metric, "--out", "table"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("transfer table of 2 tasks: 3 groups with 1 seeds each, 3 runs of 2 steps")
    assert "| target_1 + target_2 | target_1 |" in said
    assert json.loads(Path("table/transfer.json").read_text())["tasks"] == ["target_1", "target_2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected a recipe, got none"),
        (["two.yaml", "--pairs", "target_1"], 'expected pairs as "a+b,a+c", got'),
        (["two.yaml", "--pairs", "target_1+target_9"], "expected pairs of different tasks among"),
        (["two.yaml", "--seeds", "0"], "expected one or more different seeds"),
        (["two.yaml", "--metric", "target_1=nll"], "expected the metric of each of"),
        (["two.yaml", "--metric", "squared_eror"], "squared_eror"),
        (["two.yaml", "--weighting", "Fixed"], "expected a recipe without weighting and target, got weighting"),
    ],
)
def test_bad_options_end_with_one_readable_line(
    options: list[str], message: str, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transfer", *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1
