"""The command line, as a user meets it: in a process of its own where that matters, else through `main`."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest

import metabox
from metabox import recipe
from metabox.cli.main import COMMANDS, main
from metabox.discover import subclasses
from metabox.learners import NP
from metabox.objectives import LatentLoss
from metabox.targets import Reals

GLYPHS = "glyphs-5w1s-incontext"
QUICK = [
    *("--outer.steps", "6", "--outer.validate_every", "3", "--outer.n_validation", "4", "--n_test", "8"),
    *("--tasks.init_args.n_way", "5", "--outer.n_tasks", "2", "--learner.init_args.backbone.init_args.width", "8"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny finished run."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", GLYPHS, *QUICK, "--out", str(out)]) == 0
    return out


def test_list_does_not_import_torch() -> None:
    script = (
        "import sys\nfrom metabox.cli.main import main\nmain(['list'])\n"
        "assert 'torch' not in sys.modules and 'jsonargparse' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)


def test_help_without_importing_torch() -> None:
    script = "import sys\nfrom metabox.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    done = subprocess.run(
        [sys.executable, "-c", script + "assert 'torch' not in sys.modules"], capture_output=True, text=True, check=True
    )
    assert all(command in done.stdout for command in ("train", "evaluate", "list"))


def test_every_option_of_train_has_a_type_and_a_description(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", GLYPHS, "--help"])
    assert stopped.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    options = [part.split(" ")[0] for part in said.split(" --")[1:]]
    for option in ("tasks", "learner", "outer.steps", "outer.precision", "seed", "n_test", "out", "data-root"):
        assert option in options, option
    described = said.split("(type: ")
    assert len(described) > 20
    for part in said.split(" --outer.")[2:]:
        assert "(type: " in part or "{" in part, part[:60]


def test_print_config_shows_the_resolved_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", GLYPHS, "--outer.lr", "0.5", "--print_config"])
    said = capsys.readouterr().out
    assert "lr: 0.5" in said
    assert f"name: {GLYPHS}" in said
    assert "class_path: metabox.learners.InContext" in said


def test_a_recipe_may_name_any_backbone_by_its_short_name() -> None:
    parser = recipe.make_parser(recipe.find(GLYPHS))
    for found in subclasses("Backbone"):
        needed = [name for name, p in signature(found.load()).parameters.items() if p.default is p.empty][1:]
        options = [f"--learner.init_args.backbone.init_args.{name}=x" for name in needed]
        config = recipe.parse(parser, [f"--learner.init_args.backbone={found.name}", *options])
        assert config.learner.init_args.backbone.class_path == f"{found.module}.{found.name}"


def test_training_says_where_the_result_and_the_curves_are(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", GLYPHS, *QUICK]) == 0
    said = capsys.readouterr().out
    out = f"runs/{GLYPHS}-seed0"
    assert "accuracy" in said
    assert "95% interval over tasks" in said
    result = json.loads(Path(said.split("result: ")[1].split("\n")[0]).read_text())
    assert f"curves: {out}/metrics.jsonl" in said
    assert len(result["per_task"]["accuracy"]) == result["summary"]["n_tasks"] == 8
    assert result["summary"]["split"] == "test"
    assert result["protocol"]["init_args"]["n_way"] == 5
    assert "running statistics" in result["protocol"]["batch_norm"]
    assert result["trained_on"]["torch"]
    assert result["data"].startswith("Glyphs")
    assert str(here) not in Path(out, "recipe.yaml").read_text() + json.dumps(result)


def test_evaluating_a_run_again_gives_the_same_scores(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (first,) = (trained / "results").glob("test-seed0-*.json")
    before = json.loads(first.read_text())["per_task"]
    assert main(["evaluate", str(trained)]) == 0
    (again,) = (trained / "results").glob("test-seed0-*.json")
    assert json.loads(again.read_text())["per_task"] == before


def test_another_protocol_or_list_of_tasks_is_another_result(trained: Path) -> None:
    assert main(["evaluate", str(trained), "--test_seed", "1", "--split", "val"]) == 0
    assert main(["evaluate", str(trained), "--evaluation.init_args.n_shot", "3"]) == 0
    assert len(list((trained / "results").glob("val-seed1-*.json"))) == 1
    assert len(list((trained / "results").glob("test-seed0-*.json"))) == 2


def test_a_learner_of_a_run_can_be_loaded_in_python(trained: Path) -> None:
    import metabox

    learner, tasks = metabox.load_run(trained)
    assert not learner.training
    (file,) = (p for p in (trained / "results").glob("test-seed0-*.json") if _shots(p) == 1)
    scores = metabox.evaluate(learner, tasks, n_tasks=8)
    assert scores.per_task["accuracy"] == json.loads(file.read_text())["per_task"]["accuracy"]


def _shots(path: Path) -> int:
    return json.loads(path.read_text())["protocol"]["init_args"]["n_shot"]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err.strip()
    assert said.startswith("metabox: error: ")
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "omniglot"], "expected a kind among learners, backbones, datasets, models, recipes, got 'omniglot'"),
        (["list", "recipes", "nowhere"], "a name that `metabox list recipes` lists, got 'nowhere'"),
        (["list", "recipes", "a", "b"], "expected known options, got b"),
        (["train"], "expected a recipe"),
        (["train", "no-such-recipe"], "`metabox list` names the recipes"),
        (["train", "glyph-5w1s-incontext"], "did you mean glyphs-5w1s-incontext?"),
        (["train", GLYPHS, "--outer.step", "3"], "step"),
        (["train", GLYPHS, "--outer.steps", "many"], "steps"),
        (["train", GLYPHS, "--outer.steps", "0"], "expected steps as a whole number of at least 1, got 0"),
        (["train", GLYPHS, "--learner.init_args.widht", "3"], "widht"),
        (["train", GLYPHS, "--learner", "os.system"], "os.system"),
        (["train", GLYPHS, "--n_test", "0"], "expected n_test of at least 1, got 0"),
        (["evaluate"], "expected the folder of a run"),
        (["evaluate", "no-such-run"], "expected the folder of a run"),
    ],
)
def test_bad_input_is_answered_by_one_line_and_exit_code_2(
    arguments: list[str], words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert words in one_line(capsys)
    assert not list(here.iterdir()), "bad input must leave nothing behind"


def test_going_on_with_another_recipe_names_the_difference(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", GLYPHS, *QUICK, "--outer.lr", "0.25", "--out", str(trained)]) == 2
    assert "lr: 0.25" in one_line(capsys)


def test_an_option_of_evaluation_changes_the_tasks_of_a_run_without_one(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (trained / "recipe.yaml").read_text()
    config = recipe.parse(recipe.make_parser(trained / "recipe.yaml"), [])
    first, last = text.index("evaluation:"), text.index("objective:")
    (tmp_path / "recipe.yaml").write_text(text[:first] + "evaluation: null\n" + text[last:])
    parser = recipe.make_parser(tmp_path / "recipe.yaml")
    for options in (["--evaluation.n_way", "3"], ["--evaluation.init_args.n_way=3"]):
        changed = recipe.parse(parser, options)
        assert changed.evaluation.init_args.n_way == 3
        assert changed.tasks.init_args.n_way == config.tasks.init_args.n_way == 5
        assert changed.evaluation.init_args.n_query == config.tasks.init_args.n_query
    both = recipe.parse(parser, ["--evaluation.n_way", "3", "--tasks.n_query", "2"])
    assert both.evaluation.init_args.n_query == 2
    assert recipe.parse(parser, ["--evaluation", "Glyphs", "--evaluation.n_way", "3"]).evaluation.init_args.n_way == 3
    assert recipe.parse(parser, []).evaluation is None


def test_damaged_weights_are_named(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text((trained / "recipe.yaml").read_text())
    (tmp_path / "model.json").write_bytes((trained / "model.json").read_bytes())
    (tmp_path / "best.safetensors").write_bytes((trained / "best.safetensors").read_bytes()[:500])
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "best.safetensors" in one_line(capsys)


def printing(text: str) -> str:
    return (
        "import sys, metabox.cli.main as cli\n"
        f"cli.COMMANDS['list'] = lambda rest: print({text!r}) or print('seen', file=sys.stderr)\n"
        "sys.exit(cli.main(['list']))"
    )


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        ("", 0, "98 +- 1, R2, ?\n"),
        (" 2>&-", 0, "98 +- 1, R2, ?\n"),
        (" >&-", 0, ""),
        (" <&- >&- 2>&-", 0, ""),
        (" | true", 0, ""),
        (" >/dev/full", 2, ""),
    ],
)
def test_a_command_ends_well_whatever_its_streams_are(redirected: str, code: int, said: str, here: Path) -> None:
    command = shlex.join([sys.executable, "-c", printing("98 ± 1, R², 語")]) + redirected
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (code, said)
    assert "Traceback" not in done.stderr
    assert not list(here.iterdir())


def test_nobody_reading_on_is_no_error(here: Path) -> None:
    command = shlex.join([sys.executable, "-c", printing("x").replace("'x'", "'x' * 1_000_000")])
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -c 1; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (141, "x", "")


@pytest.mark.parametrize("error", [MemoryError(), type("OutOfMemoryError", (RuntimeError,), {})("no memory\nleft")])
def test_no_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setitem(COMMANDS, "list", fail)
    assert main(["list"]) == 2
    assert "memory" in one_line(capsys)
    monkeypatch.setitem(COMMANDS, "list", lambda _: [][0])
    with pytest.raises(IndexError):  # a defect is not called bad input
        main(["list"])


def test_a_user_without_a_home_is_told_what_to_name(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(_: int) -> None:
        raise KeyError("uid not found")

    for name in ("HOME", "METABOX_DATA", "METABOX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert main(["train", "omniglot-5w1s-incontext"]) == 2
    said = one_line(capsys)
    assert all(word in said for word in ("HOME", "METABOX_DATA", "METABOX_CACHE"))
    assert not list(here.iterdir())


def test_omniglot_offline_names_the_flag_the_variable_and_the_default(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_args: object, **_kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.Omniglot", offline)
    (here / "data").mkdir()
    monkeypatch.setenv("METABOX_DATA", str(here / "data"))
    assert main(["train", "omniglot-5w1s-incontext"]) == 2
    said = one_line(capsys)
    assert all(word in said for word in ("--data-root", "METABOX_DATA", GLYPHS))
    assert os.listdir(here) == ["data"]


def test_omniglot_trains_from_a_data_root(here: Path, omniglot_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METABOX_DATA", "")  # set again by the flag, and undone with this test
    arguments = ["train", "omniglot-5w1s-incontext", *QUICK, "--outer.n_tasks", "1", "--data-root", omniglot_root]
    assert main([*arguments, "--out", "out"]) == 0
    (result,) = (here / "out" / "results").glob("*.json")
    assert 0 < json.loads(result.read_text())["summary"]["accuracy"]["mean"] < 1
    assert omniglot_root not in (here / "out" / "recipe.yaml").read_text()


def test_every_argument_of_run_that_a_recipe_gives_arrives(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, given = set(signature(metabox.run).parameters), dict[str, object]()

    def run(tasks: object, learner: object, outer: object, **others: object) -> None:
        given.update(others, tasks=tasks, learner=learner, outer=outer)
        raise KeyboardInterrupt("seen")

    monkeypatch.setattr("metabox.training.loop.run", run)
    monkeypatch.setattr("metabox.training.loop.check", lambda *_args, **_others: True)
    recipe_file = here / "weighted.yaml"
    recipe_file.write_text(
        "tasks: {class_path: MadeMail, init_args: {n_users: 3}}\nlearner: {class_path: HardSharing}\nseed: 7\n"
        "weighting: {class_path: WorstCase, init_args: {step: 0.5}}\n"
        "objective: {class_path: metabox.objectives.LatentLoss, init_args: {n_samples: 4}}\n"
    )
    main(["train", str(recipe_file)])
    assert set(given) == parameters
    assert given["weighting"](3).config["step"] == 0.5  # type: ignore[operator]
    assert given["seed"] == 7
    tasks = metabox.TaskSpec((1,), Reals(1))
    objective = given["objective"](NP(tasks))  # type: ignore[operator]
    assert isinstance(objective, LatentLoss)
    assert objective.n_samples == 4
