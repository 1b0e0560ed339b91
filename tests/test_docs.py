"""The documentation: every block of code runs, every command line parses, and the pages build without a warning."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metabox import plugins
from metabox.cli.main import main
from metabox.files import write_text
from metabox.recipe import dump, find, make_parser, parse
from metabox.tasks.place import Place
from metabox.tensors import save_tensors
from metabox.training.description import Description, write_description

DOCS = Path(__file__).parents[1] / "docs"
MADE = ("methods", "reference", "_build")  # folders of pages that are not committed
PAGES = [
    path.relative_to(DOCS).with_suffix("").as_posix()
    for path in sorted(DOCS.rglob("*.md"))
    if path.relative_to(DOCS).parts[0] not in MADE
]
BLOCK = re.compile(r"^```(python|yaml|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ (?:python -m )?metabox (.*)$", re.MULTILINE)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to run a page in: modules there can be imported, and are unloaded afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("METABOX_DATA", "")  # --data-root changes it
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    gc.collect()  # or a class of a page would stay among the known subclasses


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run_in_their_order(page: str, workplace: Path) -> None:
    namespace: dict[str, object] = {"__name__": page}
    for kind, text in BLOCK.findall((DOCS / f"{page}.md").read_text(encoding="utf-8")):
        if kind == "console":
            for line in COMMAND.findall(text):
                check_command(shlex.split(line, comments=True))
        elif kind == "yaml":
            write_text("stripes.yaml", text)
            build_recipe("stripes.yaml")
        elif name := re.match(r"# (\w+\.py)\n", text):
            write_text(name[1], text)  # a module that a later block imports
        else:
            run_block(text, namespace, page)


def run_block(text: str, namespace: dict[str, object], page: str) -> None:
    """Run a block, and compare what it prints with the comments after its `print`s."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, f"{page}.md", "exec"), namespace)
    promised = re.findall(r"^ *print\(.*\)  # (.*)$", text, re.MULTILINE)
    lines = printed.getvalue().splitlines()
    assert [line for line in lines if line in promised] == promised, f"promised {promised}, printed {lines}"


def check_command(arguments: list[str]) -> None:
    """Run quick commands; of a training or an evaluation only read the options, and leave a run for later commands."""
    command, *rest = arguments
    if command in (
        "report",
        "predict",
    ):  # their runs were not trained here: the error about them shows that the options were read
        assert main(arguments) == 2
        return
    if command == "serve":
        pytest.importorskip("uvicorn", reason="needs the extra serve")
        assert main([*arguments, "--port", "-1"]) == 2  # which is the last to be looked at
        return
    if command == "list" or any("help" in argument for argument in rest):
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                code = main(arguments)
            except SystemExit as end:  # help
                code = end.code
        assert code == 0
        return
    with pytest.raises(SystemExit) as stopped, contextlib.redirect_stdout(io.StringIO()) as printed:
        main([*arguments, "--print_config"])
    assert stopped.value.code == 0
    assert "class_path" in printed.getvalue()
    if command == "train":
        leave_untrained_run(rest)


def leave_untrained_run(arguments: list[str]) -> None:
    """Leave what `metabox train` would, with untrained weights."""
    names, (recipe, *options) = plugins.split_arguments(a for a in arguments if a != "--print_config")
    with plugins.allowed(names):
        parser = make_parser(find(recipe))
        config = parse(parser, options)
        made = parser.instantiate(config)
    if "Glyphs" not in config.tasks.class_path:
        return
    folder = Path(config.out or f"runs/{recipe if config.name == 'run' else config.name}-seed{config.seed}")
    spec = made.tasks.spec.union((made.evaluation or made.tasks).spec)
    write_text(folder / "recipe.yaml", dump(parser, config))
    write_description(folder, Description(spec, None, {}))
    weights = made.learner(spec).state_dict()
    save_tensors(folder / "best.safetensors", weights)


def build_recipe(path: str) -> None:
    """Check that everything in the recipe can be made and fits together."""
    with plugins.allowed([str(file) for file in Path().glob("*.py")]):
        parser = make_parser(Path(path))
        made = parser.instantiate(parse(parser, []))
    evaluation = made.evaluation or made.tasks
    spec = made.tasks.spec.union(evaluation.spec)
    learner = made.learner(spec)
    assert learner.eval()(evaluation.sample(Place(2, "val"))).isfinite().all()


def test_the_path_of_one_image_names_functions_that_are_there() -> None:
    """A method may be inherited from a base class, but must be defined in the file that the page gives."""
    page = (DOCS / "concepts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(metabox/[\w/]+)\.py` \| `([\w.]+)` \|", page, re.MULTILINE)
    assert len(rows) > 12
    for file, name in rows:
        found: object = importlib.import_module(file.replace("/", "."))
        for part in name.split("."):
            found = getattr(found, part)
        assert found.__module__ == file.replace("/", "."), (file, name)


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_results", DOCS / "results.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_results_page_says_so_where_there_are_none(results: ModuleType, tmp_path: Path) -> None:
    assert results.page(tmp_path) == "No results are committed."
    assert results.page(tmp_path / "missing") == "No results are committed."


def test_the_results_page_shows_whatever_the_files_hold(results: ModuleType, tmp_path: Path) -> None:
    tree = "0123456789" * 4
    rows = [
        {"recipe": "a|b", "steps": 12000, "accuracy": 0.123456, "split": "test", "curve": [1, 2], "whole": True},
        {"recipe": "c", "steps": 3, "ms": {"median": 1234.5, "q1": 0.00001, "q3": 2.0}, "split": "test", "none": None},
    ]
    for name in ("made_up.json", "not_listed.json"):
        content = {"facts": {"torch": "2", "cuda": None, "git_tree": tree}, "rows": rows}
        (tmp_path / name).write_text(json.dumps(content))
    listed = {"current": tree, "files": {"made_up.json": {"command": "python made_up.py"}}}
    (tmp_path / "manifest.json").write_text(json.dumps(listed))
    page = results.page(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(listed | {"current": "def"}))
    assert "`python made_up.py`, rows of an older version of metabox." in results.page(tmp_path)
    assert page.splitlines() == [
        "## made up",
        "",
        "`python made_up.py`, of the current version of metabox.",
        "",
        "In every row: split test.",
        "",
        "| recipe | steps | accuracy | whole | ms |",
        "| --- | --- | --- | --- | --- |",
        "| a\\|b | 12000 | 0.1235 | yes |  |",
        "| c | 3 |  |  | 1,234 [1e-05, 2] |",
        "",
        "<details><summary>About the measurement</summary>",
        "",
        f"Facts: torch 2; git tree {tree[:8]}.",
        "",
        "</details>",
    ]


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    rows = [{"row": "five: heads", "of": {"a": 1.5, "b": None}, "n": 3}, {"row": "x", "of": {"a": 2.0, "b": None}}]
    (tmp_path / "made_up.json").write_text(json.dumps({"rows": rows, "best": {"mean": 0.25, "whole": True}}))
    (tmp_path / "manifest.json").write_text('{"current": null, "files": {"made_up.json": {"command": ""}}}')
    return tmp_path


def measured(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Write files of rows, and the manifest that lists them."""
    facts = {"cpu": "one", "threads": 1, "torch": "2", "git_commit": "abcdef0123456789"}
    for file, lines in rows.items():
        (folder / file).write_text(json.dumps({"environment": facts, "rows": lines}))
    files = {file: {"command": "again"} for file in rows}
    (folder / "manifest.json").write_text(json.dumps({"current": None, "files": files}))


def test_tables_in_rows_are_shown_beside_what_names_their_row(results: ModuleType, tmp_path: Path) -> None:
    rows = [{"seed": s, "steps": 5, "runs": [{"views": v, "error": s + v / 10} for v in (1, 9)]} for s in (0, 1)]
    points = [{"ms": 0.5}, {"ms": 0.7}]
    (tmp_path / "made_up.json").write_text(json.dumps({"rows": [row | {"points": points} for row in rows]}))
    shown = results.section(tmp_path / "made_up.json")
    assert "Runs:\n\n| seed | views | error |\n" in shown
    assert "| 1 | 9 | 1.9 |" in shown
    assert "0.7" not in shown


def test_a_page_takes_rows_columns_and_single_numbers_from_a_result(results: ModuleType, listed: Path) -> None:
    chosen = results.chosen(listed, "made_up", "rows", "row,of a", "row=x|five: heads")
    assert chosen.splitlines() == ["| row | of a |", "| --- | --- |", "| x | 2 |", "| five: heads | 1.5 |"]
    assert results.value(listed, "made_up", "rows", "row=five: heads", "of", "a") == "1.5"
    assert results.value(listed, "made_up", "best", "mean") == "0.25"


@pytest.mark.parametrize("where", [("row,of b",), ("row,gone",), ("row", "row=gone")])
def test_rows_and_columns_that_a_result_lacks_are_errors(
    results: ModuleType, listed: Path, where: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=r"expected rows of made_up\.json where .*, got none with \['"):
        results.chosen(listed, "made_up", "rows", *where)


@pytest.mark.parametrize(
    "steps", [("best",), ("best", "gone"), ("best", "whole"), ("rows", "row=gone", "n"), ("n", "n")]
)
def test_a_number_that_a_result_lacks_is_an_error(results: ModuleType, listed: Path, steps: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a number at .* of made_up\.json, got"):
        results.value(listed, "made_up", *steps)
    with pytest.raises(ValueError, match=r"expected a file of manifest\.json, got other\.json"):
        results.value(listed, "other", *steps)


def test_the_exercise_says_how_to_measure_it_until_it_is(results: ModuleType, listed: Path) -> None:
    assert results.exercise(listed) == "Not measured yet: `python benchmarks/cs330.py` trains all sizes."
    row = {"ways": 2, "shots": 1, "steps": 9, "accuracy_percent": 70.5}
    row |= {"interval_95_percent": 1.0, "chance_percent": 50.0}
    measured(listed, {"cs330.json": [row]})
    assert "| 2-way 1-shot | 9 | 70.5 | 1 | 50 |" in results.exercise(listed)
    assert "Measured with: cpu one; threads 1; torch 2; commit abcdef01." in results.exercise(listed)
    assert results.exercise(listed).endswith("Repeat: `again`.")


def test_each_sequence_learner_is_one_line_of_its_table(results: ModuleType, listed: Path) -> None:
    assert results.sequences(listed, "kalman").startswith("Not measured yet: `python benchmarks/sequences.py kalman`")
    window = {"steps": [1, 10], "nats_above_bayes": 0.25, "interval_95": 0.125}
    lengths = [{"pairs": n, "wrong_bits_percent": w, "numbers_in_phi": 8 * n} for n, w in ((2, 0.5), (4, 9.5))]
    rows = {
        "recall": {"lengths": lengths},
        "kalman": {"windows": [window], "numbers_in_phi": 7},
        "streams": {"instance_1_percent": 30.5, "nll": 0.5, "numbers_in_phi": 7},
    }
    one = {"learner": "lstm", "steps": 9}
    measured(listed, {f"sequences-{command}.json": [one | row] for command, row in rows.items()})
    assert "| lstm | 9 | 0.5 | 9.5 | 32 |" in results.sequences(listed, "recall")
    assert "| lstm | 9 | 0.25 ± 0.125 | 7 |" in results.sequences(listed, "kalman")
    assert "| lstm | 9 | 30.5 | 7 |" in results.sequences(listed, "streams")


def test_streams_say_how_to_measure_them_until_they_are(results: ModuleType, listed: Path) -> None:
    assert results.streams(listed).startswith("Not measured yet: `python benchmarks/omniglot_streams.py`")
    rows = [
        {"recipe": "one", "seed": 0, "steps": 9, "instance_1": 30.5, "instance_2": 80.5, "claim": {"published": 82.8}},
        {"recipe": "two", "seed": 0, "steps": 9, "instance_1": 31.5, "instance_2": 81.5, "claim": None},
    ]
    measured(listed, {"omniglot-streams.json": rows})
    shown = results.streams(listed)
    assert "_static/omniglot-streams.svg" in shown
    assert "| one | 0 | 9 | 30.5 | 80.5 | 82.8 |" in shown
    assert "| two | 0 | 9 | 31.5 | 81.5 |  |" in shown
    assert shown.endswith("Repeat: `again`.")


@pytest.mark.parametrize("text", ["{", "[1, 2]"])
def test_a_results_file_of_another_kind_is_named(results: ModuleType, tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.json").write_text(text)
    (tmp_path / "manifest.json").write_text('{"current": null, "files": {"odd.json": {"command": ""}}}')
    with pytest.raises(ValueError, match=r"expected .* in odd\.json"):
        results.page(tmp_path)
