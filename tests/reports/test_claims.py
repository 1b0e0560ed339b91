"""Verdicts on claims, comparisons and tables of runs against plain transcriptions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_cases import RECIPE, claim, edit
from scipy import stats

from metabox.reports.compare import paired
from metabox.reports.page import as_markdown, write_report


def result_of(run: Path) -> dict[str, Any]:
    (path,) = (run / "results").glob("test-seed0-*.json")
    return json.loads(path.read_text())


def test_the_seeds_of_a_recipe_stand_side_by_side_each_with_its_interval_over_tasks(reproduced: Path) -> None:
    ((row,),) = [table["rows"] for table in json.loads((reproduced / "report.json").read_text())["claims"]]
    means = []
    for seed, said in enumerate(row["seeds"]):
        accuracy = 100 * np.array(result_of(reproduced / "runs" / f"{RECIPE}-seed{seed}")["per_task"]["accuracy"])
        assert (said["seed"], len(accuracy)) == (seed, 8)
        assert said["mean"] == pytest.approx(accuracy.mean())
        assert said["interval_95"] == pytest.approx(stats.t.ppf(0.975, 7) * accuracy.std(ddof=1) / 8**0.5)
        assert said["changed_files"] == []
        assert (said["steps"], said["commit"]) == (
            4,
            result_of(reproduced / "runs" / f"{RECIPE}-seed0")["trained_on"]["git_commit"],
        )
        means.append(accuracy.mean())
    assert row["mean"] == pytest.approx(np.mean(means))
    assert row["spread"] == pytest.approx(np.std(means, ddof=1))  # of the two runs, not of their sixteen tasks


@pytest.mark.parametrize(
    ("shift", "interval", "verdict"),
    [(0, None, "reproduced"), (60, None, "short by 60.00"), (-60, None, "above by 60.00"), (60, 100, "reproduced")],
)
def test_the_verdict_weighs_the_difference_against_both_intervals(
    runs: list[Path], shift: float, interval: float | None, verdict: str
) -> None:
    ours = 100 * np.mean(result_of(runs[0])["per_task"]["accuracy"])
    content = write_report([claim(runs[0], value=float(ours + shift), interval=interval)], runs[0] / "out", n_tasks=0)
    assert content["claims"][0]["rows"][0]["verdict"] == verdict


def test_of_a_loss_less_is_better(runs: list[Path]) -> None:
    content = write_report([claim(runs[0], metric="nll", value=100.0)], runs[0] / "out", n_tasks=0)
    assert content["claims"][0]["rows"][0]["verdict"].startswith("above by 9")


@pytest.mark.parametrize(
    ("metric", "shift", "verdict"),
    [
        ("error", 0, "reproduced"),
        ("error", -99, "short by 99.00"),
        ("log_likelihood", 0, "reproduced"),
        ("log_likelihood", 99, "short by 99.00"),
    ],
)
def test_a_claim_in_error_or_nats_is_judged_by_what_the_paper_prints(
    runs: list[Path], metric: str, shift: float, verdict: str
) -> None:
    per_task = result_of(runs[0])["per_task"]
    ours = 100 * (1 - np.mean(per_task["accuracy"])) if metric == "error" else -np.mean(per_task["nll"])
    claimed = claim(runs[0], metric=metric, value=float(ours + shift), others=["94.9, issue 2"])
    table = write_report([claimed], runs[0] / "out", n_tasks=0)["claims"][0]
    (row,) = table["rows"]
    assert (row["verdict"], row["unit"]) == (verdict, "%" if metric == "error" else "")
    assert row["mean"] == pytest.approx(ours)
    assert table["claim"]["others"] == ["94.9, issue 2"]
    assert "What others got: 94.9, issue 2." in (runs[0] / "out" / "report.md").read_text()


def test_a_metric_that_was_not_measured_is_not_judged(runs: list[Path]) -> None:
    content = write_report([claim(runs[0], metric="accuracy_instance_2")], runs[0] / "out", n_tasks=0)
    assert content["claims"][0]["rows"][0]["verdict"] == "not judged: accuracy_instance_2 has no interval here"


def test_a_paired_comparison_is_the_t_interval_of_the_differences() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(0.6, 0.1, 40), generator.normal(0.5, 0.1, 40)
    got = paired(one.tolist(), other.tolist())
    low, high = stats.ttest_1samp(one - other, 0).confidence_interval(0.95)
    assert got["difference"] == pytest.approx((low + high) / 2)
    assert got["interval_95"] == pytest.approx((high - low) / 2)
    assert got["t_test_p"] == pytest.approx(stats.ttest_1samp(one - other, 0).pvalue)
    assert got["wilcoxon_p"] == pytest.approx(stats.wilcoxon(one, other).pvalue)


def test_runs_that_no_task_tells_apart_have_no_p_value() -> None:
    assert paired([0.5, 0.25], [0.5, 0.25]) == {
        "difference": 0.0,
        "interval_95": None,
        "t_test_p": None,
        "wilcoxon_p": None,
    }
    assert paired([0.75, 0.5], [0.5, 0.25])["t_test_p"] == 0  # the same everywhere, and no warning


def test_only_other_recipes_on_the_same_tasks_are_compared(runs: list[Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(runs[0], tmp_path / "other"))
    edit(other / "recipe.yaml", f"name: {RECIPE}", "name: other")
    names = [
        (pair["one"], pair["other"]) for pair in write_report([*runs, other], tmp_path / "a", n_tasks=0)["comparisons"]
    ]
    assert names == [(f"{RECIPE}, seed 0", "other, seed 0"), (f"{RECIPE}, seed 1", "other, seed 0")]
    (path,) = (other / "results").glob("*.json")
    edit(path, '"data": "', '"data": "other ')
    assert write_report([*runs, other], tmp_path / "b", n_tasks=0)["comparisons"] == []


def test_a_score_that_a_task_does_not_have_is_left_out(runs: list[Path], tmp_path: Path) -> None:
    values = [0.5, None, 0.75, 1.0, None, 0.25, 0.5, 0.0]
    for run, shift in zip(runs, (0.0, 0.25), strict=True):
        (path,) = (run / "results").glob("*.json")
        result = json.loads(path.read_text())
        result["per_task"]["accuracy"] = [None if value is None else value + shift for value in values]
        path.write_text(json.dumps(result))
        (run / "manifest.json").unlink()
    edit(runs[1] / "recipe.yaml", f"name: {RECIPE}", "name: other")
    content = write_report(runs, tmp_path / "out", n_tasks=0)
    there = [value for value in values if value is not None]
    accuracy = next(score for score in content["runs"][0]["scores"] if score["metric"] == "accuracy")
    assert (accuracy["mean"], accuracy["n_tasks"]) == (pytest.approx(np.mean(there)), 6)
    assert content["comparisons"][0]["difference"] == pytest.approx(-0.25)
    assert content["comparisons"][0]["t_test_p"] < 0.01


def test_named_tasks_stand_in_a_table_of_their_own_the_worst_first(runs: list[Path], tmp_path: Path) -> None:
    (path,) = (runs[0] / "results").glob("*.json")
    result = json.loads(path.read_text())
    result["tasks"] = ["ann", "bob"] * 4
    result["per_task"]["accuracy"] = [1.0, 0.5, 1.0, 0.25, 0.75, 0.5, 0.75, 0.25]
    path.write_text(json.dumps(result))
    content = write_report(runs[:1], tmp_path / "out", n_tasks=0)
    found = [(row["name"], row["mean"], row["n_tasks"]) for row in content["runs"][0]["by_task"]]
    assert found == [("bob", 0.375, 4), ("ann", 0.875, 4)]
    lines = (tmp_path / "out" / "report.md").read_text().splitlines()
    assert [line.split("|")[1:3] for line in lines if line.startswith(("| bob", "| ann"))] == [
        [" bob ", f" 37.50 ± {stats.t.ppf(0.975, 3) * 100 * np.std([0.5, 0.25, 0.5, 0.25], ddof=1) / 2:.2f} % "],
        [" ann ", f" 87.50 ± {stats.t.ppf(0.975, 3) * 100 * np.std([1, 1, 0.75, 0.75], ddof=1) / 2:.2f} % "],
    ]


def test_a_title_says_what_was_measured_and_what_sets_it_apart(runs: list[Path], tmp_path: Path) -> None:
    content = write_report([claim(runs[0])], tmp_path / "out", n_tasks=0)
    assert "## A paper: accuracy, Glyphs, 5-way, 1-shot\n" in as_markdown(content)
    content["claims"][0]["protocol"] |= {"transductive": True, "pretrained": "first (ab)"}
    assert "## A paper: accuracy, Glyphs, 5-way, 1-shot, transductive, pre-trained by first \\(ab\\)\n" in as_markdown(
        content
    )
