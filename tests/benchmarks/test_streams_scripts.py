"""The scripts that train streams of Omniglot: whole recipes, and one budget for all sequence learners."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from made_up import SHORT

from metabox.cli.main import main
from metabox.files import read_json
from metabox.recipe import find, make_parser, parse


@pytest.fixture(scope="module")
def whole() -> ModuleType:
    return importlib.import_module("omniglot_streams")


@pytest.fixture(scope="module")
def sequences() -> ModuleType:
    return importlib.import_module("sequences")


def test_a_trained_recipe_is_a_row_with_its_tenth_instance(
    whole: ModuleType, omniglot_root: str, tmp_path: Path
) -> None:
    recipe, out = "omniglot-stream15-strings-mann", tmp_path / "run"
    words = ["train", recipe, *SHORT, "--n_test", "2", "--data-root", omniglot_root, "--out", str(out)]
    assert main(words) == 0
    row = whole.row_of(recipe, 0, out)
    assert row["instance_10"] >= 0
    assert row["claim"]["published"] == read_json(next((out / "results").glob("*.json")))["claim"]["value"]
    assert row["curve_of"] == ["step", "seconds", *(f"accuracy_instance_{k}" for k in (2, 5, 10))]
    assert [len(point) for point in row["curve"]] == [5]
    assert row["curve"][-1][:2] == [row["steps"], row["training_seconds"]]


def made_up_run(out: Path, instances: int) -> Path:
    """The folder of a run of 20 steps, as far as a row is read from it."""
    scores = {f"accuracy_instance_{k}": {"mean": k / 20, "interval_95": 0.01} for k in range(1, instances + 1)}
    result: dict[str, Any] = {"summary": scores, "memorisation": {"accuracy_renamed": 0.5}, "claim": None}
    (out / "results").mkdir(parents=True)
    (out / "results" / "test.json").write_text(json.dumps(result | {"trained_on": {"git_tree": None}}))
    lines = [
        {"step": step, "seconds": 0.5 * step, "val": {name: score["mean"] / step for name, score in scores.items()}}
        for step in (10, 20)
    ]
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [{"step": 1}, *lines]))
    return out


def test_a_curve_has_the_instances_that_streams_have(whole: ModuleType, tmp_path: Path) -> None:
    row = whole.row_of("some", 0, made_up_run(tmp_path, instances=8))
    assert row["curve_of"] == ["step", "seconds", "accuracy_instance_2", "accuracy_instance_5"]
    assert row["curve"] == [[10, 5.0, 1.0, 2.5], [20, 10.0, 0.5, 1.25]]
    assert row["instance_8"] == 40


def test_the_figure_shows_the_second_instance_by_thousands_of_batches(
    whole: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    drawn, plot = [], Axes.plot

    def kept(axes: Axes, *given: Any, **options: Any) -> Any:
        drawn.append([[*part] for part in given[:2]])
        return plot(axes, *given, **options)

    monkeypatch.setattr(Axes, "plot", kept)
    whole.draw([whole.row_of("some", 0, made_up_run(tmp_path, instances=8))], tmp_path / "figure.svg")
    assert drawn == [[[*range(1, 9)], [5.0 * k for k in range(1, 9)]], [[0.01, 0.02], [1.0, 0.5]]]
    assert "second instance" in (tmp_path / "figure.svg").read_text()


def learner_options(recipe: str, words: list[str]) -> Any:
    return parse(make_parser(find(recipe)), words).learner.as_dict()


def test_a_recipe_is_trained_after_the_one_whose_convolutions_it_has(
    whole: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(whole, "metabox", called.append)
    monkeypatch.setattr(whole, "log_of", lambda run: [{"step": 1, "seconds": 3.14}])
    first = tmp_path / "stream-front-cpu-seed1"
    assert whole.train("omniglot-stream5-mann-cpu", 1, tmp_path / "run") == 2 * 3.14
    assert [words[1] for words in called] == ["omniglot-stream-front-cpu", "omniglot-stream5-mann-cpu"]
    assert [words[words.index("--out") + 1] for words in called] == [str(first), str(tmp_path / "run")]
    assert called[1][-2:] == ["--learner.backbone.run", str(first)]
    assert whole.train("omniglot-stream5-mann", 1, tmp_path / "other") == 3.14
    assert len(called) == 3


def test_a_learner_reads_streams_as_it_is_trained_for_recall(sequences: ModuleType) -> None:
    for name in sequences.LEARNERS:
        recipes = (sequences.recipe_of(command, name) for command in ("streams", "recall"))
        made = [
            learner_options(recipe, [*sequences.words(command, name)])
            for command, recipe in zip(("streams", "recall"), recipes, strict=True)
        ]
        for learner in made:
            assert learner["init_args"].pop("backbone")["class_path"].endswith("Flatten")
        # MANN has the options of its own recipe of streams, with which learning begins early.
        assert (made[0] == made[1]) == (name != "mann"), name
