"""Every recipe of the package: it reads, its claim says where it is from, and it takes a step."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_up import SHORT, made

from metabox import discover, recipe
from metabox.cli.main import main
from metabox.discover import recipes, subclasses
from metabox.files import read_json
from metabox.learners import MAML
from metabox.reports.metrics import DERIVED
from metabox.tasks.place import Place

BY_HAND = ("celeba", "census", "nyuv2", "miniimagenet", "tieredimagenet", "cub")
"""Sets that everyone must get for themselves. Their readers' tests take a step on made-up files in the same layout."""

FILES = sorted((discover.PACKAGE / "recipes").rglob("*.yaml"))
BASES = [path for path in FILES if path.name == discover.BASE]


def content(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def options(content: Any, before: str = "") -> set[str]:
    """The options that have a value of their own, by their whole names."""
    if not isinstance(content, dict):
        return {before}
    return set().union(*(options(value, f"{before}.{name}".lstrip(".")) for name, value in content.items()))


def joined(base: Any, recipe: Any) -> Any:
    """One file with the options of both."""
    if not (isinstance(base, dict) and isinstance(recipe, dict)):
        return recipe
    return base | {name: joined(base.get(name), value) for name, value in recipe.items()}


def resolved(parser: Any, words: list[str]) -> str:
    return recipe.dump(parser, recipe.parse(parser, words))


def test_a_recipe_has_its_name_for_itself_and_lies_in_the_folder_of_its_data_set() -> None:
    names = [path.stem for path in FILES if path not in BASES]
    assert names
    assert sorted(names) == list(recipes())
    assert not list((discover.PACKAGE / "recipes").glob("*.*"))


@pytest.mark.parametrize("base", BASES, ids=lambda base: str(base.parent.relative_to(FILES[0].parents[1])))
def test_a_base_holds_what_every_recipe_of_its_folder_shares_and_none_says_again(base: Path) -> None:
    shared, below = content(base), [path for path in base.parent.glob("*.yaml") if path != base]
    assert len(below) > 1
    assert "tasks" in options(shared) or "tasks.class_path" in options(shared), "or a copied recipe would be another"
    assert "claim" not in shared
    for path in below:
        pairs = product(options(shared), options(content(path)))
        both = {one for one, other in pairs if f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")}
        assert not both, f"{path.stem} repeats or changes {sorted(both)}"


@pytest.mark.parametrize(
    "name", ["omniglot-5w1s-relation", "cifarfs-5w1s-maml-cpu", "completion-cifar-cnp", "sinusoid-anp"]
)
def test_a_recipe_over_its_base_is_the_recipe_of_one_file_with_the_options_of_both(name: str, tmp_path: Path) -> None:
    path = recipe.find(name)
    base = path.with_name(discover.BASE)
    whole = tmp_path / path.name
    whole.write_text(yaml.safe_dump(joined(content(base), content(path))))
    assert resolved(recipe.make_parser(path), []) == resolved(recipe.make_parser(whole), [])
    other = recipe.make_parser(recipe.find("glyphs-5w1s-incontext"))
    assert resolved(other, ["--config", path.stem]) == resolved(other, ["--config", str(whole)])


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_can_be_read_says_what_it_is_and_its_claim_says_where_it_is_from(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("METABOX_DATA", raising=False)  # reading a recipe opens no data
    first = recipe.find(name).read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith("# ")
    assert len(first) <= 120
    with pytest.raises(SystemExit) as stopped:
        main(["train", name, "--print_config"])
    assert stopped.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert class_of(config["learner"]) in {found.name for found in subclasses("Learner")}
    if claim := config["claim"]:
        assert claim["metric"] == "log_likelihood" or 0 < claim["value"] <= 100
        assert any(character.isdigit() for character in claim["source"])
        assert "table" in claim["source"]
        assert claim["protocol"]
        metric, _, instance = claim["metric"].partition("_instance_")
        assert metric in ("accuracy", "error", "log_likelihood")
        assert not instance or class_of(config["objective"]) == "StreamLoss"
        for other in claim["others"]:  # a number, and where it is from
            assert re.search(r"\d\d", other)
            assert re.search(r", .*(issue|table|README|reprinted)", other)


def class_of(part: dict[str, Any] | str) -> str:
    """Of a class with options, or its name alone."""
    return (part if isinstance(part, str) else part["class_path"]).rpartition(".")[2]


def written(name: str) -> dict[str, Any]:
    """A recipe as its file and that of its base have it, which is read faster than by the parser."""
    path = recipe.find(name)
    base = discover.base_of(path)
    return joined(content(base), content(path)) if base else content(path)


def with_few_queries(name: str, options: dict[str, Any]) -> list[str]:
    """Options for images to take a step in a fraction of the time; tasks of the recipe's own size are only drawn."""
    parts = [part for part in ("tasks", "evaluation") if options.get(part)]
    if any(class_of(options[part]) not in ("Omniglot", "CIFARFS") for part in parts):
        return []
    parser = recipe.make_parser(recipe.find(name))
    built = parser.instantiate(recipe.parse(parser, []))
    for part, split in zip(parts, ("train", "test"), strict=False):
        sampler = getattr(built, part)
        sampler.spec.check_episodes(sampler.sample(Place(1, split)))
    return [word for part in parts for word in (f"--{part}.n_query", "1")]


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_takes_a_step_and_is_evaluated_or_says_where_to_get_its_data(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch, capsys
) -> None:
    if any(real in name for real in ("omniglot", "alphabets", "cifarfs", "completion")):
        monkeypatch.setenv("METABOX_DATA", request.getfixturevalue("omniglot_root"))
    if name.startswith("folder"):
        monkeypatch.chdir(tmp_path)
        made(tmp_path / "photos", list("abcdef"), size=40, channels=3)
    if name.startswith(BY_HAND):
        monkeypatch.setenv("METABOX_DATA", str(tmp_path))
    options = written(name)
    learner = next(found for found in subclasses("Learner") if found.name == class_of(options["learner"]))
    if issubclass(learner.load(), MAML):
        pytest.importorskip("learn2learn")
    if name.startswith(BY_HAND):
        capsys.readouterr()  # what an optional package says when it is imported, as gym does
        assert main(["train", name, *SHORT, "--out", str(tmp_path / "run")]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("metabox: error: expected ")
        assert name.partition("-")[0] in line.lower()
        assert "METABOX_DATA" in line
        return
    if name != (smaller := re.sub(r"\d+w\d+s", "5w1s", name)) and smaller in recipes():
        # It differs in numbers alone from one that takes a step here.
        parser = recipe.make_parser(recipe.find(name))
        built = recipe.build(parser, recipe.parse(parser, []))
        built.learner.check_episodes(built.tasks.sample(Place(1, "test"), "cpu"))
        return
    if first := re.search(r"'run': 'runs/(.+)-seed0'", str(options)):
        monkeypatch.chdir(tmp_path)
        assert main(["train", first[1], *SHORT]) == 0
    assert main(["train", name, *SHORT, *with_few_queries(name, options), "--out", str(tmp_path)]) == 0
    result = read_json(next((tmp_path / "results").glob("*.json")))
    if claim := options.get("claim"):
        metric = claim["metric"]
        assert DERIVED.get(metric, (metric,))[0] in result["summary"]
        assert metric == "log_likelihood" or "accuracy_renamed" in result["memorisation"]


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["--tasks", "ClassFolder"], None),
        (['--tasks={"class_path": "metabox.tasks.ClassFolder"}'], None),
        (["--tasks", "ClassFolder", "--tasks.image_size", "[32, 64]"], (32, 64)),
        (["--tasks", "Omniglot"], 28),
    ],
)
def test_another_set_does_not_take_over_the_size_of_images_in_silence(
    words: list[str], size: object, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = [f"--tasks.path={tmp_path}"] if "ClassFolder" in str(words) else []
    parser = recipe.make_parser(recipe.find("omniglot-20w1s-cnp"))
    assert recipe.parse(parser, [*words, *path]).tasks.init_args.image_size == size
    assert ("image_size 28 of the recipe's Omniglot is not taken over by ClassFolder" in caplog.text) == (size is None)
