"""Recipes: one YAML file that defines a run. Its options are constructor arguments.

A recipe names classes by `class_path`, and only those that `metabox.gate` allows.
"""

from __future__ import annotations

import difflib
import glob
import inspect
import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from jsonargparse.typing import restricted_string_type

from metabox import discover, gate, messages
from metabox.checks import check_fields, checked
from metabox.data.root import DATA_VARIABLE, name_data_root
from metabox.episodes import Split
from metabox.evaluation import Scores, evaluate, normalisation
from metabox.learners.base import Learner
from metabox.memorisation import memorisation
from metabox.objectives import QueryLoss
from metabox.plugins import HELP, OPTION, allowed
from metabox.ranges import NotNegative, Real
from metabox.reports import manifest
from metabox.targets import TaskSpec
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tensors import load_weights
from metabox.training.description import read_description
from metabox.training.environment import collect_environment, read_environment
from metabox.training.loop import MakeObjective, run

log = logging.getLogger(__name__)

PATH_OPTIONS = ("config", "data_root", "out")
"""Paths on this machine, which are not part of a run's recipe."""


Name = restricted_string_type("Name", r"^(?!\.)[^/\\\x00-\x1f]{1,200}$", docstring="The name of one folder.")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The published number that a recipe aims to reproduce.

    Args:
        metric: what was measured, a metric of the results, such as "accuracy", or "error" or "log_likelihood".
        value: as printed, in percent for an accuracy or an error, in nats for a likelihood.
        interval: as printed, half the width of the 95% interval.
        source: paper and table.
        protocol: of the paper, as far as it matters for comparison: split, queries, episodes.
        verified: whether the value was read in the source itself.
        others: what others got with the same method, each with its source.
    """

    metric: str
    value: Real
    source: str
    interval: NotNegative | None = None
    protocol: str = ""
    verified: bool = False
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)


def make_parser(defaults: Path | None = None, **kwargs: Any) -> ArgumentParser:
    """A parser of the options of a run: those of `metabox.training.loop.run` and of the command line."""
    for found in discover.nameable():
        found.load()  # so that a short name is enough in a recipe
    files = gate.layers(defaults) if defaults else []
    parser = gate.RecipeParser(
        exit_on_error=False,
        allow_abbrev=False,
        parser_mode="recipe",
        epilog=f"{OPTION} MODULE or {OPTION} FILE.py: {HELP}",
        default_config_files=[glob.escape(str(file.absolute())) for file in files],
        **kwargs,
    )
    parser.add_argument("--config", action=gate.RecipeFile, help="A further YAML file, read over the recipe.")
    parser.add_argument("--data-root", type=str | None, help=f"Folder of the data sets; else ${DATA_VARIABLE}.")
    parser.add_argument("--name", type=Name, default="run", help="Name of the run; the recipe's name by default.")
    parser.add_argument("--n_test", type=int, default=600, help="Test tasks of the evaluation after training.")
    parser.add_argument("--claim", type=Claim | None, help="The published number that the recipe aims to reproduce.")
    parser.add_function_arguments(run, skip={"out"})
    parser.add_argument("--out", type=str | None, help="Folder of the run; runs/NAME-seedSEED by default.")
    if defaults:
        parser.set_defaults(name=defaults.stem)
    return parser


def find(recipe: str) -> Path:
    """The file of a recipe, given by its name in the package or by its path.

    Raises:
        ValueError: if there is no such recipe.
    """
    known = discover.recipes()
    path = known.get(recipe, Path(recipe))
    if not path.is_file():
        mend = messages.near(recipe, known) or "; `metabox list` names the recipes"
        raise ValueError(f"expected a recipe's name or a YAML file, got {messages.shortened(recipe)!r}{mend}")
    return path


def parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """The resolved recipe.

    If the recipe has no evaluation, `--evaluation.n_way 3` means its training tasks with this option. Another class of
    `--tasks` than the recipe's has its own default of `image_size`, which a log message says.

    Raises:
        ValueError: if an option is unknown or has a value of the wrong type.
    """
    arguments = _with_own_size(parser, arguments)
    given = [word for word in arguments if re.match(r"--evaluation\b(?!.*\.help\b)", word)]
    if given and all(word.startswith("--evaluation.") for word in given):
        others = _parse(parser, _without(arguments, ("--evaluation.", "--print_config", "--help", "-h")))
        if others.evaluation is None:
            arguments = ["--evaluation", json.dumps(others.tasks.as_dict()), *arguments]
    config = _parse(parser, arguments)
    name_data_root(config.data_root)
    return config


def _with_own_size(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Arguments in which another set does not take over the size of the recipe's images, unless they say a size."""
    named = [word for at, word in enumerate(arguments) if at and arguments[at - 1] == "--tasks"]
    named += [word.partition("=")[2] for word in arguments if word.startswith("--tasks=")]
    if not named or any("image_size" in word or word.startswith("--config") for word in arguments):
        return arguments
    with gate.closed():
        before = parser.get_defaults().get("tasks")
    if not isinstance(before, Namespace):
        return arguments
    size = before.get("init_args", {}).get("image_size")
    name = named[-1]
    if name.lstrip().startswith("{") and (inside := re.search(r'"class_path"\s*:\s*"([\w.]+)"', name)):
        name = inside[1]
    name = name.rpartition(".")[2]
    new = next((found.load() for found in discover.subclasses("EpisodeSampler") if found.name == name), None)
    own = inspect.signature(new).parameters.get("image_size") if new else None
    if own is None or size in (None, own.default) or before.class_path.rpartition(".")[2] == name:
        return arguments
    log.warning(
        "image_size %s of the recipe's %s is not taken over by %s, whose default is %s; --tasks.image_size sets it",
        *(size, before.class_path.rpartition(".")[2], name, json.dumps(own.default)),
    )
    at = max(i for i, word in enumerate(arguments) if word == "--tasks" or word.startswith("--tasks="))
    at += 2 if arguments[at] == "--tasks" else 1
    return [*arguments[:at], f"--tasks.image_size={json.dumps(own.default)}", *arguments[at:]]


def _parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    try:
        return parser.parse_args(arguments)
    except (ArgumentError, RecursionError) as error:
        raise ValueError(messages.explain(parser, str(error))) from error


def _without(arguments: list[str], options: tuple[str, ...]) -> list[str]:
    """Command-line arguments without some options and their values."""
    kept, skip = [], False
    for word in arguments:
        dropped = word.startswith(options)
        if not dropped and not (skip and not word.startswith("--")):
            kept.append(word)
        skip = dropped and "=" not in word and word.startswith("--evaluation.")
    return kept


def dump(parser: ArgumentParser, config: Namespace) -> str:
    """The resolved recipe as YAML, without the paths on this machine."""
    kept = config.clone()
    for name in PATH_OPTIONS:
        kept.pop(name, None)
    # null may differ from the default
    text: str = parser.dump(kept, skip_unset=False, skip_validation=True)
    return text


class Rebuilt(NamedTuple):
    """A finished run: the learner in evaluation mode, its evaluation tasks and objective, the weights' metadata."""

    learner: Learner
    tasks: EpisodeSampler
    objective: MakeObjective
    weights: dict[str, str]


def rebuild(parser: ArgumentParser, config: Namespace, folder: Path, *, evaluated: bool = True) -> Rebuilt:
    """Rebuild a run from its recipe and its weights.

    Args:
        parser: of the recipe.
        config: the resolved recipe.
        folder: of the run.
        evaluated: whether the learner must also handle the evaluation tasks, which may have more ways than the
            training tasks; this needs their data.

    Raises:
        ValueError: if a file is damaged, the weights are not those of the recipe's learner, or data are missing.
    """
    made = parser.instantiate(config)
    evaluation, spec = made.evaluation or made.tasks, read_description(folder).spec
    learner = _learner(made, spec.union(evaluation.spec) if evaluated else spec)
    of_weights = load_weights(learner, folder / "best.safetensors")
    return Rebuilt(learner.eval(), evaluation, made.objective or QueryLoss, of_weights)


def build(parser: ArgumentParser, config: Namespace) -> Rebuilt:
    """Build a run before training, with initial weights; the spec comes from the data."""
    made = parser.instantiate(config)
    evaluation = made.evaluation or made.tasks
    learner = _learner(made, made.tasks.spec.union(evaluation.spec))
    return Rebuilt(learner, evaluation, made.objective or QueryLoss, {})


def _learner(made: Namespace, spec: TaskSpec) -> Learner:
    with gate.building("the learner"):
        spec = spec if made.target is None else spec.scored_by(made.target)
        learner: Learner = made.learner(spec.scaled_by(made.scale))
    return learner


def protocol(config: Namespace, learner: Learner) -> dict[str, Any]:
    """The protocol of a result: the test tasks, and the properties of the learner that matter for comparison."""
    tasks: dict[str, Any] = (config.evaluation or config.tasks).as_dict()
    return tasks | normalisation(learner)


@checked
def load_run(folder: str | Path, plugins: Sequence[str] = ()) -> tuple[Learner, EpisodeSampler]:
    """The learner of a finished run with its best weights, in evaluation mode, and its evaluation sampler.

    No data are needed: the learner's spec is stored with the run. The sampler opens its data when it is used.

    Args:
        folder: of the run. It may be untrusted: nothing in it can run code.
        plugins: modules or Python files of your own whose classes the run's recipe names; they are imported.

    Raises:
        ValueError: if the folder holds no run, its files are damaged, or it names a class that belongs neither to
            metabox nor to a plugin.
    """
    with allowed(plugins):
        parser = make_parser(find_run(folder))
        manifest.check(folder)
        rebuilt = rebuild(parser, parse(parser, []), Path(folder), evaluated=False)
    return rebuilt.learner, rebuilt.tasks


def find_run(folder: str | Path) -> Path:
    """The resolved recipe in the folder of a run.

    Raises:
        ValueError: if there is none.
    """
    path = Path(folder) / "recipe.yaml"
    if not path.is_file():
        raise ValueError(
            f"expected the folder of a run, with a recipe.yaml in it, got {folder}; `metabox train` makes one"
        )
    return path


def overridden(parser: ArgumentParser, config: Namespace, folder: Path) -> list[str]:
    """The lines in which a recipe differs from that of the run in the folder, as in the output of `diff`."""
    kept = find_run(folder).read_text(encoding="utf-8").splitlines()
    differ = difflib.unified_diff(kept, dump(parser, config).splitlines(), n=0, lineterm="")
    return [line for line in differ if not line.startswith(("---", "+++", "@@"))]


def evaluate_run(
    parser: ArgumentParser, config: Namespace, folder: Path, *, split: Split, n_tasks: int, seed: int
) -> tuple[Scores, dict[str, Any]]:
    """Scores of a run's best weights, and the full result with everything needed to repeat it."""
    learner, tasks, objective, of_weights = rebuild(parser, config, folder)
    scores = evaluate(learner, tasks, split=split, n_tasks=n_tasks, seed=seed, objective=objective)
    renamed = None
    if tasks.spec.target.n_classes is not None and not tasks.spec.tasks:  # named tasks have classes of their own
        claimed = config.claim.metric if config.claim else ""
        renamed = memorisation(
            *(learner, tasks),
            split=split,
            n_tasks=min(n_tasks, 100),
            seed=seed,
            objective=objective,
            metric=claimed if claimed in scores.per_task and claimed.startswith("accuracy") else "accuracy",
        )
    result = {
        "name": config.name,
        "seed": config.seed,
        "protocol": protocol(config, learner),
        "overridden": overridden(parser, config, folder),
        "summary": scores.summary(),
        "memorisation": renamed,
        "learner": learner.describe(tasks.sample(Place(min(n_tasks, 50), split, seed=seed))),
        "claim": config.claim and config.claim.as_dict(),
        "data": tasks.fingerprint(),
        "weights": of_weights,
        "trained_on": read_environment(folder),
        "evaluated_on": collect_environment(),
        "tasks": scores.tasks,
        "per_task": {
            name: [None if math.isnan(value) else value for value in values] for name, values in scores.per_task.items()
        },
    }
    return scores, result
