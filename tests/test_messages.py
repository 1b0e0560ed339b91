"""What the command line says of a mistake: the option, what was expected, what came, and the nearest known name."""

from __future__ import annotations

from pathlib import Path

import pytest

from metabox.cli.main import main

RECIPE = """
tasks: {class_path: Glyphs, init_args: {n_way: 5, n_shot: 1, n_query: 3}}
learner: {class_path: CNP, init_args: {width: 8}}
"""

MISTAKES = {
    # Words of the command line.
    "--outer.step 3": "expected a known option, got --outer.step 3; did you mean --outer.steps?",
    "--seeds 3": "expected a known option, got --seeds 3; did you mean --seed?",
    "more.yaml": "expected a known option, got more.yaml",
    "--seed": "expected a value after --seed, got none",
    "--config none.yaml": "expected a recipe's name or a YAML file, got 'none.yaml'; `metabox list` names the recipes",
    "--config -": "expected a recipe's name or a YAML file, got '-'; `metabox list` names the recipes",
    "--config https://host.invalid/a": "expected a recipe's name or a YAML file, got 'https://host.invalid/a'; ",
    "--config file.jsonnet": "expected names of options in file.jsonnet, got 'local x",
    # Values.
    "--outer.steps many": "expected outer.steps as int, got many",
    "--outer.optimizer sdg": "expected outer.optimizer as one of 'adam', 'adamw', 'muon', 'rmsprop', 'sgd', got sdg",
    "--tasks.n_way x": "expected tasks.n_way as int or tuple[int, int], got x",
    "--learner.backbone Conv4 --learner.backbone.norm x": "expected learner.backbone.norm as one of 'batch', ",
    "--name ../../x": "expected name as the name of one folder, got '../../x'",
    "--name /x": "expected name as the name of one folder, got '/x'",
    "--name ..": "expected name as the name of one folder, got '..'",
    "--n_test 0": "expected n_test of at least 1, got 0",
    # Options of a class.
    "--learner.widht 3": "expected an option of CNP for learner, got 'widht'; did you mean width?",
    "--learner.init_args.widht 3": "expected an option of CNP for learner, got 'widht'; did you mean width?",
    "--tasks.n_shots 3": "expected an option of Glyphs for tasks, got 'n_shots'; did you mean n_shot?",
    "--learner.backbone Conv4 --learner.backbone.dim 3": "expected an option of Conv4 for learner.backbone, got 'dim'",
    "--weighting.step 3": "name the class first: --weighting CLASS",
    # Classes.
    "--learner Protonet": "expected learner as a Learner, got 'Protonet'; did you mean ProtoNet?",
    "--learner Glyphs": "expected learner as a Learner, got 'Glyphs'",
    "--tasks Glyph": "expected tasks as an EpisodeSampler, got 'Glyph'; did you mean Glyphs?",
    "--tasks.augment RandomCropp": "as an Augmentation, got 'RandomCropp'; did you mean RandomCrop?",
    "--learner.backbone Conv5": "expected learner.backbone as a Backbone, got 'Conv5'; did you mean Conv4?",
    "--tasks.augment Crop": "expected tasks.augment as an Augmentation, got 'Crop'; there are Chain, ColorJitter, ",
    "--weighting PCGrad": "expected weighting as a Weighting, got 'PCGrad'; there are DWA, Fixed, ",
    "--target metabox.OuterLoop": "expected target as a Target, got metabox.OuterLoop, which is none",
    "--tasks.n_way a": "expected tasks.n_way as int or tuple[int, int], got a",
    "--tasks.n_way [1]": "expected tasks.n_way as int or tuple[int, int], got [1]",
    "--learner.width -1": "error: expected width as a whole number of at least 1, got -1\n",
    "--outer 3": "expected outer as options and their values, got '3'",
    "--learner metabox.tasks.Omniglot": "expected learner as a Learner, got metabox.tasks.Omniglot, which is none",
    "--objective metabox.learners.CNP": "expected objective as an Objective, got metabox.learners.CNP, which",
    "--tasks metabox.learners.CNP": "expected tasks as an EpisodeSampler, got metabox.learners.CNP, which is none",
    "--learner metabox.learners.CPN": "got 'metabox.learners.CPN' for learner: there is no such class",
    "--learner metabox.learners.ProtoNte": "there is no such class; did you mean ProtoNet?",
    "--learner mine.Net": "expected a class of metabox or of a plugin, got 'mine.Net' for learner; if it is your own, "
    "and you trust it, add --plugins mine, or --plugins FILE.py",
    "--learner.help Foo": "expected --learner.help as a class that a recipe may name, got 'Foo'",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_by_the_option_and_what_was_expected(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)
    Path("file.jsonnet").write_text("local x = 1; { seed: std.length('abc') }")
    assert main(["train", "recipe.yaml", *mistake.split()]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert MISTAKES[mistake] in said
    assert len(said) < len(MISTAKES[mistake]) + 150
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.jsonnet", "recipe.yaml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "metabox --help"),
        (["trian"], "did you mean train?"),
        (["report"], "metabox report --help"),
        (["report", "run", "--n_task", "3"], "--n_task"),
        (["report", "run", "--n_tasks", "x"], "as a whole number, got 'x'"),
        (["sweep"], "metabox sweep --help"),
        (["sweep", "glyphs-5w1s-incontext", "--jobs", "x"], "as a whole number, got 'x'"),
        (["reproduce"], "expected RECIPE..."),
        (["list", "--foo"], "--foo"),
    ],
)
def test_every_command_answers_a_mistake_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("metabox: error: ")
    assert said.count("\n") == 1
    assert words in said
