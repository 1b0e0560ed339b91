"""The command line, `metabox COMMAND`. Only the commands that compute import torch."""

from __future__ import annotations

import argparse
import codecs
import difflib
import hashlib
import itertools
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from metabox import __version__, discover, plugins


def train(arguments: list[str]) -> None:
    """Meta-train by a recipe, then evaluate on its test tasks. After a stop, the same command resumes the run."""
    with discover.without_collection():
        from metabox import recipe as recipes
        from metabox.reports import manifest
        from metabox.training.loop import check, run
        from metabox.training.run_folder import owned

        if not arguments:
            raise ValueError("expected a recipe, got none: metabox train RECIPE; `metabox list` names the recipes")
        path, arguments = _positional(arguments, recipes.find)
        parser = recipes.make_parser(path, prog="metabox train [RECIPE]", description=train.__doc__)
        config = recipes.parse(parser, arguments)
    if config.n_test < 1:
        raise ValueError(f"expected n_test of at least 1, got {config.n_test}")
    folder = Path(config.out or f"runs/{config.name}-seed{config.seed}")
    text = recipes.dump(parser, config)
    manifest.check_recipe(folder, text)
    made = parser.instantiate(config)
    options = ("evaluation", "objective", "weighting", "target", "scale", "hooks", "select")
    of_run = {name: getattr(made, name) for name in options} | {"seed": config.seed}
    leads = check(made.tasks, made.learner, made.outer, **of_run)
    with owned(folder, leads):
        finished = leads and manifest.begin(folder, text)
        run(made.tasks, made.learner, made.outer, **of_run, out=folder)
        if leads:  # one process evaluates and writes
            _evaluate(parser, config, folder, split="test", n_tasks=config.n_test, seed=0, trained=not finished)
            print(f"curves: {folder}/metrics.jsonl, or: tensorboard --logdir {folder}")


def evaluate(arguments: list[str]) -> None:
    """Evaluate the best weights of a run on a fixed list of tasks. Options of the recipe may be overridden."""
    with discover.without_collection():
        from metabox import recipe as recipes
        from metabox.reports import manifest
        from metabox.training.run_folder import check_free

        folder, arguments = _positional(arguments, Path)
        if folder is None and not {"-h", "--help"} & set(arguments):
            raise ValueError("expected the folder of a run, got none: metabox evaluate RUN")
        parser = recipes.make_parser(
            recipes.find_run(folder) if folder else None, prog="metabox evaluate RUN", description=evaluate.__doc__
        )
        parser.add_argument("--split", choices=["train", "val", "test"], default="test", help="Which classes.")
        parser.add_argument("--test_seed", type=int, default=0, help="Another seed is another list of tasks.")
        config = recipes.parse(parser, arguments)
    assert folder is not None  # --help has ended by now
    check_free(folder)
    manifest.check(folder)
    split, seed = config.pop("split"), config.pop("test_seed")
    _evaluate(parser, config, folder, split=split, n_tasks=config.n_test, seed=seed)


def predict(arguments: list[str]) -> None:
    """Learn classes from folders of a few images each, and print the class of other images.

    Of a model with named parts, print what it predicts of each part, a column each.
    """
    parser = _Parser(prog="metabox predict", description=predict.__doc__)
    parser.add_argument("model", metavar="MODEL_OR_RUN", help="Name of a model, a file *.metabox, or a run's folder.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="Images whose classes are asked.")
    parser.add_argument("--support", metavar="DIR", help="A folder with a folder of images for each class.")
    parser.add_argument("--unknown", type=float, help="Images less probable than this in every class are of none.")
    parser.add_argument("--views", type=int, default=1, help="Answers are averaged over this many small changes.")
    parser.add_argument("--device", help='Where to compute, such as "cuda".')
    parser.add_argument("--save", metavar="FILE.metabox", help="Keep the model and what it has learned.")
    parser.add_argument("--json", action="store_true", help="Print all probabilities as JSON.")
    options = vars(parser.parse_args(arguments))
    from metabox.cli.predict import answers, as_table

    as_json = options.pop("json")
    found = answers(**options)
    print(json.dumps(found, indent=2) if as_json else as_table(found))


def serve(arguments: list[str]) -> None:
    """Serve a model to this machine: a page to draw characters or drop photographs, and the same as JSON."""
    parser = _Parser(prog="metabox serve", description=serve.__doc__)
    parser.add_argument("model", metavar="MODEL_OR_RUN", help="Name of a model, a file *.metabox, or a run's folder.")
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on; by default only this machine's own.")
    parser.add_argument("--port", type=int, default=8000, help="Port to listen on; 0 for any that is free.")
    parser.add_argument("--device", help='Where to compute, such as "cuda".')
    options = parser.parse_args(arguments)
    try:
        from metabox.serving.server import serve as run_server
    except ImportError as error:
        raise ImportError(f'expected the extra serve, got {error}; pip install ".[serve]" from a checkout') from error
    from metabox.shipped import find_model

    run_server(find_model(options.model, options.device), options.host, options.port)


def report(arguments: list[str]) -> None:
    """Write a report of finished runs: one HTML page, and the same as Markdown and JSON."""
    parser = _Parser(prog="metabox report", description=report.__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="Folder of a finished run.")
    parser.add_argument("--out", default="report", help="Folder of the report.")
    parser.add_argument("--n_tasks", type=int, default=100, help="Test tasks of new measurements; 0 for none.")
    parser.add_argument("--data-root", help="Folder of the data sets.")
    options = parser.parse_args(arguments)
    from metabox.data.root import name_data_root

    name_data_root(options.data_root)
    _report(options.runs, options.out, n_tasks=options.n_tasks)


def reproduce(arguments: list[str]) -> None:
    """Train recipes with several seeds and report on them. Options may be overridden, for all recipes alike."""
    from metabox import recipe as recipes
    from metabox.reports.collect import check_recipes

    parser = _Parser(prog="metabox reproduce RECIPE...", description=reproduce.__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="Training runs of each recipe, with the seeds 0, 1, ...")
    parser.add_argument("--out", default="reproduced", help="Folder of the report, and of the runs below it.")
    parser.add_argument("--n_tasks", type=int, default=100, help="As for `metabox report`.")
    names = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    options, more = parser.parse_known_args(arguments[len(names) :])
    if not names or options.seeds < 1:
        raise ValueError(f"expected RECIPE... and seeds of at least 1, got {names} and {options.seeds}")
    check_recipes(names, more)
    folders = []
    for name, seed in itertools.product(names, range(options.seeds)):
        folders.append(f"{options.out}/runs/{recipes.find(name).stem}-seed{seed}")
        train([name, *more, "--seed", str(seed), "--out", folders[-1]])
    _report(folders, options.out, n_tasks=options.n_tasks)


def sweep(arguments: list[str]) -> None:
    """Train recipes with several seeds and values of options. After a stop, the same command resumes the sweep."""
    parser = _Parser(prog="metabox sweep", description=sweep.__doc__)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="Name or path of a recipe.")
    parser.add_argument("--seeds", type=int, default=3, help="Runs of each combination, with the seeds 0, 1, ...")
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=A,B,...", help="Values of an option; all are combined."
    )
    parser.add_argument("--out", default="sweeps", help="Folder of the runs, and of sweep.json with their scores.")
    parser.add_argument("--jobs", type=int, default=1, help="Runs at a time on this machine.")
    parser.add_argument("--engine", default="local", help='"local", or "ray" for a cluster.')
    parser.add_argument("--gpus", type=float, default=0, help="GPUs that Ray gives to each run.")
    parser.add_argument("--data-root", help="Folder of the data sets.")
    options = parser.parse_args(arguments)
    from metabox.cli import sweep as sweeps
    from metabox.data.root import name_data_root

    name_data_root(options.data_root)
    jobs = sweeps.grid(options.recipes, options.set, options.seeds, options.out, plugins.as_arguments())
    result = sweeps.sweep(jobs, engine=options.engine, at_once=options.jobs, gpus=options.gpus)
    print(f"{len(jobs)} runs: {sweeps.write_summary(result, options.out)}")


def transfer(arguments: list[str]) -> None:
    """Train the tasks of a recipe alone, in pairs and together, and say which to train together."""
    from metabox.cli.transfer import transfer as table

    table(arguments, transfer.__doc__ or "")


def list_(arguments: list[str]) -> None:
    """List the available learners, backbones, data sets and recipes: all, one kind, or those that match a name."""
    from metabox.cli.listing import KINDS, listing

    parser = _Parser(prog="metabox list", description=list_.__doc__)
    parser.add_argument("kind", nargs="?", metavar="KIND", help=f"One of {', '.join(KINDS)}; all of them by default.")
    parser.add_argument("word", nargs="?", metavar="WORD", default="", help='Part of the names, such as "omniglot".')
    options = parser.parse_args(arguments)
    with discover.without_collection():
        print(listing(options.kind, options.word))


def check(arguments: list[str]) -> None:
    """Read the files of a run, or all packs of images, and report damage. Deleted packs are rebuilt when needed."""
    parser = argparse.ArgumentParser(prog="metabox check", description=check.__doc__, allow_abbrev=False)
    parser.add_argument("folder", nargs="?", help="Folder of a run, or of packs; by default the cache of packs.")
    folder = parser.parse_args(arguments).folder
    found: dict[str, str | None]
    if folder and (Path(folder) / "recipe.yaml").is_file():
        from metabox.reports.manifest import check_run

        found, kind, mend = dict(check_run(Path(folder))), "files", "restore them, or train anew"
    else:
        from metabox.data.pack import check_packs

        found, kind, mend = {str(path): wrong for path, wrong in check_packs(folder).items()}, "packs", "delete them"
    for name, complaint in found.items():
        print(f"{name}: {complaint or 'whole'}")
    if damaged := [Path(name).name for name, complaint in found.items() if complaint]:
        shown = f"{len(damaged)} of {len(found)} damaged ({', '.join(damaged[:5])})"
        raise ValueError(f"expected whole {kind}, got {shown}; {mend}")
    print(f"{len(found)} {kind}, all whole")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "serve": serve,
    "report": report,
    "reproduce": reproduce,
    "sweep": sweep,
    "transfer": transfer,
    "list": list_,
    "check": check,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 2 for bad input, 130 when interrupted, 141 when output is cut off."""
    _open_streams()
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `metabox list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would try to flush again at exit
        return 141
    except (ValueError, OSError, FloatingPointError, ImportError, MemoryError) as error:
        return _refuse(str(error) or "not enough memory")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # by name, because torch may not be imported
            raise
        return _refuse(str(error))
    except KeyboardInterrupt as interrupt:
        print(f"metabox: {interrupt or 'interrupted'}", file=sys.stderr)
        return 130
    return 0


def _run(arguments: list[str]) -> None:
    top = _Parser(prog="metabox", description="Learn a new task from a few examples, in one forward pass.")
    top.epilog = f"Every command takes {plugins.OPTION} MODULE or {plugins.OPTION} FILE.py too: {plugins.HELP}"
    top.add_argument("--version", action="version", version=f"metabox {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, function in COMMANDS.items():
        commands.add_parser(name, help=(function.__doc__ or "").partition(". ")[0], add_help=False)
    named, rest = plugins.split_arguments(arguments)
    if rest and rest[0] not in COMMANDS and not rest[0].startswith("-"):
        near = difflib.get_close_matches(rest[0], COMMANDS, n=1)
        mend = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"expected a command among {', '.join(COMMANDS)}, got {rest[0]!r}{mend}")
    command = top.parse_args(rest[:1]).command
    with plugins.allowed(named):
        COMMANDS[command](rest[1:])


REWORDED = {
    r"^the following arguments are required: (.*)": r"expected \1, got nothing",
    r"^argument (\S+): invalid int value: (.*)": r"expected \1 as a whole number, got \2",
    r"^argument (\S+): invalid float value: (.*)": r"expected \1 as a number, got \2",
    r"^argument (\S+): expected one argument": r"expected a value after \1, got none",
    r"^unrecognized arguments: (.*)": r"expected known options, got \1",
}
"""Messages of argparse, and how they are worded here."""


class _Parser(argparse.ArgumentParser):
    """A parser without abbreviated options, whose errors are ValueErrors of one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        for pattern, wording in REWORDED.items():
            message = re.sub(pattern, wording, message)
        raise ValueError(f"{message}; see {self.prog} --help")


def _refuse(reason: str) -> int:
    print(f"metabox: error: {' '.join(reason.split())}", file=sys.stderr)
    return 2


def _open_streams() -> None:
    """Make the standard streams writable, even if the shell has closed them, and in any encoding."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the free number, before another file does
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # stays open
    codecs.register_error("metabox", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not in a notebook
            stream.reconfigure(errors="metabox")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """The replacement of characters that a stream cannot encode."""
    assert isinstance(error, UnicodeEncodeError)
    known = {"±": "+-", "²": "2", "…": "..."}
    return "".join(known.get(c, "?") for c in error.object[error.start : error.end]), error.end


def _positional(arguments: list[str], read: Callable[[str], Path]) -> tuple[Path | None, list[str]]:
    """The leading positional argument, if there is one, and the rest."""
    if arguments and not arguments[0].startswith("-"):
        return read(arguments[0]), arguments[1:]
    return None, arguments


def _evaluate(
    parser: Any, config: Any, folder: Path, *, split: Any, n_tasks: int, seed: int, trained: bool = False
) -> None:
    from metabox import recipe as recipes
    from metabox.files import write_json
    from metabox.reports import manifest
    from metabox.training.run_folder import owned

    scores, result = recipes.evaluate_run(parser, config, folder, split=split, n_tasks=n_tasks, seed=seed)
    # Another protocol, or other options of the learner, are another file: its name has a digest of them.
    about = repr((result["protocol"], n_tasks, result["overridden"])).encode()
    digest = hashlib.blake2b(about, digest_size=3).hexdigest()
    path = folder / "results" / f"{split}-seed{seed}-{digest}.json"
    with owned(folder):
        write_json(path, result)
        manifest.record(folder, path, trained=trained)
    print(f"{config.name}: {scores}")
    print(f"result: {path}")


def _report(folders: list[str], out: str, *, n_tasks: int) -> None:
    from metabox.reports.page import write_report

    for table in write_report(folders, out, n_tasks=n_tasks, plugins=plugins.as_arguments())["claims"]:
        for row in table["rows"]:
            print(f"{row['recipe']}: {row['verdict']}")
    print(f"report: {out}/report.html, report.md, report.json")
