"""The command of a report that repeats a run: it runs as it stands, and gives the same weights."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from made_up import SHORT
from safetensors.torch import load_file
from torch import equal

from metabox.cli.main import main
from metabox.files import read_json
from metabox.recipe import dump, find, make_parser, parse
from metabox.reports.claims import repeat
from metabox.reports.collect import read_run

RECIPE = "glyphs-5w1s-incontext"
NARROW = ["--learner.init_args.backbone.init_args.width", "8"]
OWN = """
tasks: {class_path: Glyphs, init_args: {n_way: 2, n_shot: 1, n_query: 1}}
learner: {class_path: CNP, init_args: {width: 8, backbone: {class_path: Flatten}}}
outer: {precision: "32"}
"""
OTHER_LEARNER = ["--learner", "CNP", "--learner.init_args.width", "8", "--learner.init_args.backbone", "Flatten"]


@pytest.mark.parametrize(
    ("recipe", "options", "repeated"),
    [
        (RECIPE, [*NARROW, "--outer.lr", "0.5"], RECIPE),
        (RECIPE, OTHER_LEARNER, None),
        ("my own.yaml", [], "runs/my own-seed0/recipe.yaml"),
        ("my own.yaml", ["--tasks.init_args.n_shot", "[1, 2]", "--seed", "3"], "runs/my own-seed3/recipe.yaml"),
        (f"{RECIPE}.yaml", [], f"runs/{RECIPE}-seed0/recipe.yaml"),  # a name that the package has a recipe of
    ],
    ids=["options", "another learner", "own", "own and options", "of the same name"],
)
def test_the_command_that_repeats_a_run_runs_and_gives_the_same_weights(
    recipe: str, options: list[str], repeated: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if recipe.endswith(".yaml"):
        Path(recipe).write_text(OWN)
    assert main(["train", recipe, *SHORT, *options]) == 0
    (folder,) = Path("runs").iterdir()
    assert main(["report", str(folder), "--n_tasks", "0"]) == 0
    command = read_json("report/report.json")["claims"][0]["rows"][0]["command"]
    metabox, *arguments = shlex.split(command)
    assert metabox == "metabox"
    assert repeated is None or arguments[:2] == ["train", repeated]
    assert main([*arguments, "--out", "again"]) == 0
    assert Path("again/recipe.yaml").read_text() == (folder / "recipe.yaml").read_text()
    first, second = (load_file(run / "best.safetensors") for run in (folder, Path("again")))
    assert first.keys() == second.keys()
    assert all(equal(first[name], second[name]) for name in first)


def test_what_differs_from_the_packages_recipe_is_named(tmp_path: Path) -> None:
    assert main(["train", RECIPE, *SHORT, *NARROW, "--seed", "1", "--out", str(tmp_path)]) == 0
    command, differ = repeat(read_run(tmp_path))
    parser = make_parser(find(RECIPE))
    assert dump(parser, parse(parser, shlex.split(command)[3:])) == (tmp_path / "recipe.yaml").read_text()
    assert "outer.steps 1 instead of 1200" in differ
    assert not [line for line in differ if line.startswith("seed")]


def test_plugins_are_in_the_command_and_no_path_above_the_working_directory_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("own.yaml").write_text(OWN)
    assert main(["train", "own.yaml", *SHORT]) == 0
    plugins = ["--plugins", "my_package", "--plugins", str(tmp_path / "here" / "b.py"), "--plugins", "/elsewhere/c.py"]
    for folder in (Path("runs/own-seed0"), Path("runs/own-seed0").absolute()):
        command, _ = repeat(read_run(folder), plugins)
        said = "--plugins my_package --plugins b.py --plugins /elsewhere/c.py"
        assert command == f"metabox train runs/own-seed0/recipe.yaml --seed 0 {said}"
