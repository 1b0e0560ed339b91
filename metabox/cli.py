"""The command line, `metabox COMMAND`. torch is imported only by the commands that compute."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def train(arguments: list[str]) -> None:
    """Meta-train by a recipe, then evaluate on its test tasks. Stopped or killed, the same command goes on."""
    import torch.distributed as dist

    from metabox import discover
    from metabox import recipe as recipes
    from metabox.files import write_text
    from metabox.reports import manifest
    from metabox.training import run

    if not arguments:
        raise ValueError(f"expected a recipe; known are {', '.join(discover.recipes())}; `metabox list` says more")
    path, arguments = _positional(arguments, recipes.find)
    parser = recipes.make_parser(path, prog="metabox train [RECIPE]", description=train.__doc__)
    config = recipes.parse(parser, arguments)
    if config.n_test < 1:
        raise ValueError(f"expected n_test of at least 1, got {config.n_test}")
    folder = Path(config.out or f"runs/{config.name}-seed{config.seed}")
    text = recipes.dump(parser, config)
    kept = folder / "recipe.yaml"
    if kept.exists() and kept.read_text(encoding="utf-8") != text:
        differ = sorted(set(text.splitlines()) ^ set(kept.read_text(encoding="utf-8").splitlines()))
        raise ValueError(f"expected the run in {folder} to have this recipe, got other values of {differ}; use --out")

    made = parser.instantiate(config)
    _ = made.tasks.spec  # a missing data set is named before anything is written
    write_text(kept, text)
    finished = manifest.is_finished(folder)
    run(
        made.tasks,
        made.learner,
        made.outer,
        evaluation=made.evaluation,
        objective=made.objective,
        weighting=made.weighting,
        seed=config.seed,
        out=folder,
    )
    if dist.is_initialized() and dist.get_rank() > 0:
        return  # one process tests and writes
    _evaluate(parser, config, folder, split="test", n_tasks=config.n_test, seed=0, trained=not finished)
    print(f"curves: {folder}/metrics.jsonl, or: tensorboard --logdir {folder}")


def evaluate(arguments: list[str]) -> None:
    """Evaluate the best weights of a run on a fixed list of tasks. Options of the recipe may be overridden."""
    from metabox import recipe as recipes

    folder, arguments = _positional(arguments, Path)
    if folder is None and not {"-h", "--help"} & set(arguments):
        raise ValueError("expected the folder of a run: metabox evaluate RUN")
    parser = recipes.make_parser(
        recipes.find_run(folder) if folder else None, prog="metabox evaluate RUN", description=evaluate.__doc__
    )
    parser.add_argument("--split", choices=["train", "val", "test"], default="test", help="Which classes.")
    parser.add_argument("--test_seed", type=int, default=0, help="Another seed is another list of tasks.")
    config = recipes.parse(parser, arguments)
    assert folder is not None  # --help has ended by now
    _evaluate(parser, config, folder, split=config.pop("split"), n_tasks=config.n_test, seed=config.pop("test_seed"))


def report(arguments: list[str]) -> None:
    """Write a report of finished runs: one HTML page, and the same as Markdown and JSON."""
    parser = argparse.ArgumentParser(prog="metabox report", description=report.__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="Folder of a finished run.")
    parser.add_argument("--out", default="report", help="Folder of the report.")
    parser.add_argument("--n_tasks", type=int, default=100, help="Test tasks of what is measured anew; 0: nothing is.")
    parser.add_argument("--data-root", help="Folder of the data sets.")
    options = parser.parse_args(arguments)
    from metabox.data.root import name_data_root

    name_data_root(options.data_root)
    _report(options.runs, options.out, n_tasks=options.n_tasks)


def reproduce(arguments: list[str]) -> None:
    """Train recipes with several seeds and report on them. Options of the recipes may be overridden, for all alike."""
    from metabox import recipe as recipes
    from metabox.reports.collect import check_recipes

    parser = argparse.ArgumentParser(
        prog="metabox reproduce RECIPE...", description=reproduce.__doc__, allow_abbrev=False
    )
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
    """Train recipes with several seeds and values of options. Stopped or killed, the same command goes on."""
    parser = argparse.ArgumentParser(prog="metabox sweep", description=sweep.__doc__, allow_abbrev=False)
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
    from metabox import sweep as sweeps
    from metabox.data.root import name_data_root

    name_data_root(options.data_root)
    jobs = sweeps.grid(options.recipes, options.set, options.seeds, options.out)
    result = sweeps.sweep(jobs, engine=options.engine, at_once=options.jobs, gpus=options.gpus)
    print(f"{len(jobs)} runs: {sweeps.write_summary(result, options.out)}")


def list_(arguments: list[str]) -> None:
    """List the learners, backbones, data sets and recipes that are here."""
    from metabox import discover

    argparse.ArgumentParser(prog="metabox list", description=list_.__doc__).parse_args(arguments)
    for title, base in (("learners", "Learner"), ("backbones", "Backbone"), ("data sets", "EpisodeSampler")):
        print(f"{title}:")
        for found in discover.subclasses(base):
            print(f"  {found.name:28} {found.summary}")
    print("recipes:")
    for name, path in discover.recipes().items():
        print(f"  {name:28} {path.read_text(encoding='utf-8').partition(chr(10))[0].lstrip('# ')}")


def check(arguments: list[str]) -> None:
    """Read all packs of images from end to end, and say which are damaged. Those are made again at their next use."""
    parser = argparse.ArgumentParser(prog="metabox check", description=check.__doc__, allow_abbrev=False)
    parser.add_argument("folder", nargs="?", help="Folder of the packs; by default the cache.")
    folder = parser.parse_args(arguments).folder
    from metabox.data.pack import check_packs

    found = check_packs(folder)
    for path, complaint in found.items():
        print(f"{path}: {complaint or 'whole'}")
    if damaged := [path.name for path, complaint in found.items() if complaint]:
        raise ValueError(f"expected whole packs, got {len(damaged)} of {len(found)} damaged; delete them")
    print(f"{len(found)} packs, all whole")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "reproduce": reproduce,
    "sweep": sweep,
    "list": list_,
    "check": check,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 2 for bad input, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    top = argparse.ArgumentParser(
        prog="metabox", description="Learn a new task from a few examples, in one forward pass."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, function in COMMANDS.items():
        commands.add_parser(name, help=(function.__doc__ or "").partition(". ")[0], add_help=False)
    command = top.parse_args(arguments[:1]).command
    try:
        COMMANDS[command](arguments[1:])
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        print(f"metabox: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"metabox: {interrupt or 'interrupted'}", file=sys.stderr)
        return 130
    return 0


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

    scores, result = recipes.evaluate_run(parser, config, folder, split=split, n_tasks=n_tasks, seed=seed)
    # Another protocol, or another option of the learner, is another file: the name carries a digest of it.
    about = repr((result["protocol"], n_tasks, result["overridden"])).encode()
    digest = hashlib.blake2b(about, digest_size=3).hexdigest()
    path = folder / "results" / f"{split}-seed{seed}-{digest}.json"
    write_json(path, result)
    manifest.record(folder, path, trained=trained)
    print(f"{config.name}: {scores}")
    print(f"result: {path}")


def _report(folders: list[str], out: str, *, n_tasks: int) -> None:
    from metabox.reports.page import write_report

    for table in write_report(folders, out, n_tasks=n_tasks)["claims"]:
        for row in table["rows"]:
            print(f"{row['recipe']}: {row['verdict']}")
    print(f"report: {out}/report.html, report.md, report.json")
