"""Plugins: the user's own code, allowed by the user alone, on every command and in Python."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import metabox
from metabox import plugins
from metabox.cli.main import COMMANDS, main

LEARNER = '''
from metabox.learners import CNP

class Mine(CNP):
    """My own."""

    @staticmethod
    def build(spec) -> CNP:
        raise AssertionError("called")

class Other:
    """No learner."""

def make(spec) -> CNP:
    raise AssertionError("called")

made = Mine.made = lambda spec: make
'''
RECIPE = """
tasks: {class_path: Glyphs, init_args: {n_way: 2, n_shot: 1, n_query: 1}}
learner: {class_path: NAME, init_args: {width: 8, backbone: {class_path: Flatten}}}
outer: {steps: 1, n_tasks: 1, validate_every: 1, n_validation: 1, precision: "32"}
n_test: 2
"""


COUNT = itertools.count()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Works in a folder with a learner in a file and in a package; returns what gives them names of this test alone.

    Python and the parser keep what was imported once.
    """
    monkeypatch.chdir(tmp_path)
    mark = f"plugin_{next(COUNT)}_"
    (tmp_path / f"{mark}file.py").write_text(LEARNER)
    for name, text in {
        "__init__": "",
        "inner/__init__": "",
        "inner/deep": LEARNER,
        "broken": "import no_such_module\n",
        "__main__": "raise AssertionError('run')",
    }.items():
        path = tmp_path / f"{mark}package" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return lambda text: text.replace("plugin_", mark)


def write(name: str) -> str:
    Path("mine.yaml").write_text(RECIPE.replace("NAME", name))
    return "mine.yaml"


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_a_learner_of_a_plugin_is_trained_and_loaded_only_where_the_user_names_it(
    own: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write(own("plugin_file.Mine"))
    said = refusal(["train", recipe], capsys)
    assert own("--plugins plugin_file") in said
    assert "FILE.py" in said
    assert own("plugin_file") not in sys.modules
    assert main(["train", recipe, "--plugins", own("plugin_file.py"), "--out", "run"]) == 0
    capsys.readouterr()
    with pytest.raises(ValueError, match=own("--plugins plugin_file")):
        metabox.load_run("run")
    assert "--plugins" in refusal(["evaluate", "run"], capsys)
    assert "--plugins" in refusal(["report", "run"], capsys)
    learner, _ = metabox.load_run("run", plugins=[own("plugin_file.py")])
    assert type(learner).__name__ == "Mine"
    assert isinstance(learner, sys.modules[own("plugin_file")].Mine)
    assert main(["evaluate", "run", f"--plugins={Path.cwd()}/" + own("plugin_file.py")]) == 0
    assert not plugins.loaded()


def test_a_package_counts_with_all_modules_in_it(
    own: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    recipe = write(own("plugin_package.inner.deep.Mine"))
    for name in (own("plugin_package"), own("plugin_package.inner"), own("plugin_package/__init__.py")):
        with pytest.raises(SystemExit):
            main(["train", recipe, "--plugins", name, "--print_config"])
    assert own("plugin_package.broken cannot be imported") in refusal(
        ["train", write(own("plugin_package.broken.Mine")), "--plugins", own("plugin_package")], capsys
    )
    assert own("plugin_package.__main__") not in sys.modules


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plugin_file.make", "no such class"),
        ("plugin_file.CNP", "no such class"),
        ("plugin_file.Mine.adapt", "no such class"),
        ("plugin_file.Mime", "did you mean Mine?"),
        ("plugin_file.Other", "Learner"),
        ("sys.exit", "expected a class of metabox or of a plugin"),
    ],
)
def test_a_plugin_gives_its_own_classes_and_each_in_its_place(
    name: str, words: str, own: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert own(words) in refusal(["train", write(own(name)), "--plugins", own("plugin_file.py")], capsys)


@pytest.mark.parametrize("given", ["learner: NAME", "learner.class_path: NAME", "learner: {class_path: NAME}"])
def test_what_a_class_has_is_no_class(
    given: str, own: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The parser would take a function for the learner that it returns."""
    for name in (own("plugin_file.Mine.build"), own("plugin_file.made"), own("plugin_file.Mine.made")):
        Path("mine.yaml").write_text(RECIPE.split("learner")[0] + given.replace("NAME", name))
        said = refusal(["train", "mine.yaml", "--plugins", own("plugin_file.py"), "--out", "run"], capsys)
        assert " learner" in said or name in said
        assert not Path("run").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_plugins_and_imports_them_first(
    command: str, own: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setitem(COMMANDS, command, lambda rest: seen.extend([rest, plugins.as_arguments()]))
    assert main([command, "a", "--plugins", own("plugin_file.py,json"), "--b", "c", "--plugins=csv"]) == 0
    words = [sys.modules[own("plugin_file")].__file__, sys.modules["json"].__file__, sys.modules["csv"].__file__]
    assert seen == [["a", "--b", "c"], [word for name in words for word in ("--plugins", name)]]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module", "install it, or name its file"),
        ("plugin_file", "name its file: --plugins plugin_file.py"),
        ("no_such_file.py", "no_such_file.py"),
        ("plugin_bad.py", "ZeroDivisionError"),
        ("plugin_exit.py", "SystemExit"),
        ("plugin_package.broken", "no_such_module"),
        ("json.py", "whose name no other module has"),
        ("a-b", "MODULE or FILE.py"),
        ("a-b.py", "imported under its name"),
        ("", "MODULE or FILE.py"),
        ("plugin_file.py,", "MODULE or FILE.py"),
        ("--seed", "MODULE or FILE.py"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_refused_in_one_line(
    name: str,
    words: str,
    own: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path(own("plugin_bad.py")).write_text("1 / 0")
    Path(own("plugin_exit.py")).write_text("import sys\nsys.exit(3)")
    Path("json.py").write_text("raise AssertionError('imported')")
    Path("a-b.py").write_text("")
    if "package" in name:
        monkeypatch.syspath_prepend(str(Path.cwd()))
    assert own(words) in refusal(["list", "--plugins", own(name)], capsys)
    assert not {own("plugin_bad"), own("plugin_exit")} & set(sys.modules)


def test_neither_the_environment_nor_a_further_recipe_names_a_plugin(
    own: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("METABOX_PLUGINS", "PLUGINS", "METABOX_TRAIN__PLUGINS", "JSONARGPARSE_PLUGINS"):
        monkeypatch.setenv(name, own("plugin_file.py"))
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv("METABOX_LEARNER", own("plugin_file.Mine"))
    Path("more.yaml").write_text(own("plugins: plugin_file.py\n"))
    assert own("--plugins plugin_file") in refusal(["train", write(own("plugin_file.Mine"))], capsys)
    assert "expected plugins on the command line only" in refusal(
        ["train", "glyphs-5w1s-incontext", "--config", "more.yaml"], capsys
    )
    assert own("plugin_file") not in sys.modules
