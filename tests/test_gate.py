"""Recipes from strangers: nothing that they name is imported or called, and none takes long to be refused."""

from __future__ import annotations

import os
import string
import subprocess
import sys
from pathlib import Path

import pytest
from jsonargparse._common import parsing_settings

import metabox
from metabox import discover, gate
from metabox.cli.main import main
from metabox.from_run import FromRun
from metabox.targets import Classes, TaskSpec
from metabox.training.description import Description, write_description

TASKS = "tasks: {class_path: Glyphs, init_args: {n_way: 5, n_shot: 1, n_query: 3}}\n"
LEARNER = "learner: {class_path: CNP, init_args: {width: 8}}\n"
GOOD = TASKS + LEARNER
TELLTALE = "wsgiref.simple_server"
"""A module that nothing here imports."""


def mail(encoder: str) -> str:
    text = f"{{class_path: Text, init_args: {{encoder: {encoder}}}}}"
    return f"tasks: {{class_path: MadeMail, init_args: {{descriptor: {text}}}}}\n{LEARNER}"


def network(backbone: str) -> str:
    return f"{TASKS}learner: {{class_path: CNP, init_args: {{backbone: {backbone}}}}}\n"


def laughs() -> str:
    letters = string.ascii_lowercase
    more = (f"{letters[i]}: &{letters[i]} [{','.join([f'*{letters[i - 1]}'] * 9)}]" for i in range(1, 14))
    return f"{{a: &a [x,x,x,x,x,x,x,x,x], {', '.join(more)}}}"


HOSTILE = {
    # Functions and classes of others.
    "a command": GOOD
    + "objective: {class_path: metabox.cli.sweep.execute, init_args: {command: [touch, PWNED], folder: .}}",
    "a command as a word": GOOD + "objective: metabox.cli.sweep.execute",
    "a pickle": GOOD + "objective: {class_path: torch.load, init_args: {f: x.pt, weights_only: false}}",
    "a file": GOOD + "weighting: {class_path: metabox.files.write_text, init_args: {path: PWNED, text: x}}",
    "a learner that is a function": TASKS
    + "learner: {class_path: metabox.files.write_text, init_args: {path: PWNED, text: x}}",
    "a learner from the system": TASKS + "learner: {class_path: os.system, init_args: {command: touch PWNED}}",
    "a sampler that is a process": "tasks: {class_path: subprocess.Popen, init_args: {args: [touch, PWNED]}}\n"
    + LEARNER,
    "an import": GOOD + f"objective: {TELLTALE}",
    "an import of a class": GOOD + f"weighting: {{class_path: {TELLTALE}.WSGIServer}}",
    "an import as a learner": TASKS + f"learner: {TELLTALE}.WSGIServer",
    "an import deep inside": network(f"{TELLTALE}.WSGIServer"),
    "an import deeper inside": network(f"{{class_path: {TELLTALE}.WSGIServer, init_args: {{}}}}"),
    "an import by a dotted key": TASKS + f"learner.class_path: {TELLTALE}.WSGIServer",
    "an import by a longer key": GOOD + f"learner.init_args.backbone: {TELLTALE}.WSGIServer",
    "an import in a list": f"tasks: {{class_path: GaussianProcess, init_args: {{kernel: [{TELLTALE}.X]}}}}\n{LEARNER}",
    "an import as a type": TASKS
    + f"learner: {{class_path: HardSharing, init_args: {{condition: {TELLTALE}.WSGIServer}}}}",
    "an import as a callable": mail(f"{TELLTALE}.make_server"),
    "an import as a callable class": mail(f"{{class_path: {TELLTALE}.WSGIServer}}"),
    "an import in place of options": GOOD + f"outer: {{class_path: {TELLTALE}.WSGIServer}}",
    "an import among further arguments": TASKS
    + f"learner: {{class_path: CNP, dict_kwargs: {{x: {{class_path: {TELLTALE}.X}}}}}}",
    "a network of torch": network("torch.nn.Linear"),
    "the settings of the gate": GOOD + "objective: jsonargparse.set_parsing_settings",
    "the outer loop itself": GOOD + "objective: metabox.training.loop.run",
    # Methods and other bases.
    "a method": TASKS + "learner: metabox.learners.CNP.adapt",
    "a method as a class": TASKS + "learner: {class_path: metabox.learners.CNP.load_state_dict}",
    "a constructor": GOOD + "objective: {class_path: metabox.objectives.QueryLoss.__init__}",
    "the class of a class": GOOD + "objective: {class_path: metabox.objectives.QueryLoss.__class__}",
    "a sampler as a learner": TASKS + "learner: {class_path: metabox.tasks.Omniglot}",
    "a learner as an objective": GOOD + "objective: {class_path: metabox.learners.CNP}",
    "an objective as a sampler": "tasks: {class_path: metabox.objectives.QueryLoss}\n" + LEARNER,
    "a learner as a backbone": network("{class_path: MAML}"),
    "a learner as a type of another": TASKS + "learner: {class_path: HardSharing, init_args: {condition: CNP}}",
    # Ways around: what only the command line may say, keys of the parser, other files.
    "a plugin": "plugins: [evil]\n" + GOOD,
    "a further recipe": GOOD + "config: pipe",
    "a further recipe in a list": GOOD + "config+: pipe",
    "a folder to write to": GOOD + "out: ../elsewhere",
    "a folder to read from": GOOD + "data-root: /",
    "a name with a way out": GOOD + "name: ../../elsewhere",
    "a name from the root": GOOD + "name: /elsewhere",
    "a file for options": GOOD + "outer: pipe",
    "a file for a learner": TASKS + "learner: pipe",
    "a file for a claim": GOOD + "claim: pipe",
    "a file for a growth": f"tasks: {{class_path: Curriculum, init_args: {{dims: pipe}}}}\n{LEARNER}",
    "a path of the parser": "__path__: /\n" + GOOD,
    "a path of the parser inside": TASKS + "learner: {class_path: CNP, __path__: pipe}",
    # YAML that takes long, or more than YAML.
    "a tag that calls": "tasks: !!python/object/apply:os.system [touch PWNED]\n",
    "a tag that includes": TASKS + "learner: !include pipe",
    "aliases of aliases": laughs(),
    "aliases of aliases in a string": GOOD + f'seed: "{laughs()}"',
    "an alias of itself": "tasks: &a [*a]\n" + LEARNER,
    "brackets": "tasks: " + "[" * 50_000,
    "braces": "tasks: " + "{a: " * 50_000,
    "brackets in a string": GOOD + 'seed: "' + "[" * 50_000 + '"',
    "paired brackets in a string": GOOD + 'seed: "' + "[" * 50_000 + "]" * 50_000 + '"',
    "steps": "tasks:\n" + "".join(" " * i + "- \n" for i in range(1, 500)),
    "many digits": GOOD + "seed: " + "9" * 100_000,
    "many digits to the base 16": GOOD + "seed: 0x" + "f" * 100_000,
    "many digits to the base 60": GOOD + "seed: " + "1:" * 100_000 + "1",
    "a large number": "tasks: {class_path: Glyphs, init_args: {n_way: 0x" + "f" * 900 + "}}\n" + LEARNER,
    "a large file": GOOD + "# " + "x" * 2_000_000,
    "bytes": "\x00\x01\x02",
    "a list": "[1, 2]",
    "nothing": "",
}


@pytest.fixture(scope="module", autouse=True)
def _known() -> None:
    """What a good recipe imports is here."""
    assert TELLTALE not in sys.modules
    with pytest.raises(SystemExit):
        main(["train", "glyphs-5w1s-incontext", "--print_config"])
    main(["report", "no-such-run"])


def refused(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a refusal that imports, starts and leaves nothing."""
    before, files, settings = set(sys.modules), sorted(folder.rglob("*")), dict(parsing_settings)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("metabox: error: ")
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 700
    assert not captured.out
    assert TELLTALE not in sys.modules
    assert {name for name in set(sys.modules) - before if name.partition(".")[0] not in ("metabox", "yaml")} == set()
    assert sorted(folder.rglob("*")) == files
    assert parsing_settings == settings
    return captured.err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which nothing starts, with pipes: whoever opens one waits for good."""

    def started(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(os, "system", started)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    os.mkfifo("pipe")
    os.mkfifo("run/pipe")
    return tmp_path


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_recipe_from_a_stranger_runs_nothing(kind: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run/recipe.yaml").write_text(HOSTILE[kind])
    refused(["train", "run/recipe.yaml"], here, capsys)
    with pytest.raises(ValueError, match="expected"):
        metabox.load_run("run")


@pytest.mark.parametrize("kind", ["a command", "a command as a word", "an import deep inside", "aliases of aliases"])
@pytest.mark.parametrize(
    "command",
    [
        "train run/recipe.yaml --out out",
        "train glyphs-5w1s-incontext --config run/recipe.yaml",
        "reproduce run/recipe.yaml",
        "sweep run/recipe.yaml",
        "evaluate run",
        "report run",
    ],
)
def test_every_command_reads_recipes_through_the_gate(
    command: str, kind: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run/recipe.yaml").write_text(HOSTILE[kind])
    refused(command.split(), here, capsys)


def test_a_run_that_a_run_begins_from_is_read_through_the_gate(here: Path) -> None:
    Path("run/recipe.yaml").write_text(HOSTILE["an import as a learner"])
    with pytest.raises(ValueError, match=f"class of metabox or of a plugin, got '{TELLTALE}"):
        FromRun((1, 28, 28), "run")
    assert TELLTALE not in sys.modules


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (mail("{class_path: metabox.learners.CNP}"), "arguments are required"),  # it can be called
        (
            TASKS + "learner: {class_path: CNP, init_args: {width: -1}}",
            "error: expected width as a whole number of at least 1, got -1\n",
        ),
        (network("{class_path: Conv4, init_args: {width: -1}}"), "expected width as a whole number of at least 1"),
    ],
)
def test_a_value_that_a_constructor_stumbles_over_is_named(
    recipe: str, words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run/recipe.yaml").write_text(recipe)
    write_description(Path("run"), Description(TaskSpec((1, 28, 28), Classes(5)), None, {}))
    assert words in refused(["evaluate", "run"], here, capsys)


def test_no_module_is_taken_from_the_folder_of_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser goes there while it reads; in a notebook, modules are looked for in the folder where one is."""
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    with gate.closed():
        monkeypatch.chdir(tmp_path)
        assert all(map(os.path.isabs, sys.path))
        assert str(tmp_path) not in sys.path
    assert sys.path[0] == ""


def test_the_gate_is_closed_for_the_length_of_a_parse_only() -> None:
    before, search = dict(parsing_settings), sys.path[:]
    assert "*" not in before["import_path_verdicts"]
    with gate.closed():
        assert parsing_settings["import_path_verdicts"]["*"] is False
        with gate.closed():
            pass
        assert parsing_settings["import_path_verdicts"]["*"] is False
    assert parsing_settings == before
    assert sys.path == search


def test_a_recipe_lies_in_a_folder_of_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a[1]*?"
    folder.mkdir()
    (folder / "mine.yaml").write_text(GOOD.replace("width: 8", "width: 12"))
    with pytest.raises(SystemExit):
        main(["train", str(folder / "mine.yaml"), "--print_config"])
    assert "width: 12" in capsys.readouterr().out


def test_a_base_beside_a_file_that_is_not_the_packages_is_not_read(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stranger's run folder must not gain a file that is read silently, nor may one beside a link."""
    Path("run/_base.yaml").write_text(HOSTILE["an import as a learner"])
    Path("run/recipe.yaml").write_text(GOOD)
    Path("run/link.yaml").symlink_to(discover.recipes()["copy-lstm"])
    for name in ("recipe", "link"):
        assert discover.base_of(Path(f"run/{name}.yaml")) != Path("run/_base.yaml")
        with pytest.raises(SystemExit) as stopped:
            main(["train", f"run/{name}.yaml", "--config", f"run/{name}.yaml", "--print_config"])
        assert stopped.value.code == 0
        assert TELLTALE not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("an import as a learner", f"got '{TELLTALE}"),
        ("a folder to write to", "expected out on the command line only"),
        ("aliases of aliases", "aliases written out"),
    ],
)
def test_a_base_of_the_package_goes_through_the_gate(
    kind: str, words: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("recipes").mkdir()
    Path("recipes/_base.yaml").write_text(HOSTILE[kind])
    Path("recipes/made-up.yaml").write_text(GOOD)
    Path("run/recipe.yaml").write_text(GOOD)
    monkeypatch.setattr(discover, "PACKAGE", here)
    for command in ("train made-up", "train run/recipe.yaml --config made-up"):
        assert words in refused(command.split(), here, capsys)
