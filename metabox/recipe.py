"""Recipes: one YAML file that says everything about a run. A constructor is its own configuration.

A recipe names classes by `class_path`, and only subclasses of the expected base are accepted: a recipe from
a stranger can choose among the learners and samplers on this machine, and cannot call anything else. The
module that it names is imported to find out: it must already be installed here, and must not be one that
jsonargparse denies to configurations (os, subprocess, pickle, ...).
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from metabox import discover
from metabox.checkpoints import load_weights
from metabox.data.root import DATA_VARIABLE, name_data_root
from metabox.environment import facts
from metabox.episodes import EpisodeSampler, Split
from metabox.evaluation import Scores, evaluate, memorisation, normalisation
from metabox.files import read_json
from metabox.learners.base import Learner
from metabox.likelihoods import likelihood_for
from metabox.objectives import QueryLoss
from metabox.training import MakeObjective, run

NOT_OF_THE_RUN = ("config", "data_root", "out")
"""Where things lie on this machine is no part of what a run is."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The published number that a recipe sets out to reproduce.

    Args:
        metric: what was measured, "accuracy" say.
        value: as printed, in percent for an accuracy.
        interval: as printed, half the width of the 95% interval.
        source: paper and table.
        protocol: what of the paper's protocol matters for comparing: split, queries, episodes.
        verified: whether the value was read in the source itself.
    """

    metric: str
    value: float
    source: str
    interval: float | None = None
    protocol: str = ""
    verified: bool = False


def make_parser(defaults: Path | None = None, **kwargs: Any) -> ArgumentParser:
    """The options of a run: those of `metabox.training.run`, and what the command line adds."""
    for base in ("EpisodeSampler", "Learner", "Backbone", "Weighting", "Descriptor"):
        for found in discover.subclasses(base):
            found.load()  # so that a short name is enough in a recipe
    set_parsing_settings(import_path_denylist=[])  # enforce jsonargparse's own list of modules that no value may name
    parser = ArgumentParser(
        exit_on_error=False,
        allow_abbrev=False,
        default_config_files=[str(defaults)] if defaults else [],
        **kwargs,
    )
    parser.add_argument("--config", action=ActionConfigFile, help="A further YAML file, read over the recipe.")
    parser.add_argument("--data-root", type=str | None, help=f"Folder of the data sets; else ${DATA_VARIABLE}.")
    parser.add_argument("--name", type=str, default="run", help="What the run is called; the recipe's name by default.")
    parser.add_argument("--n_test", type=int, default=600, help="Test tasks of the evaluation after training.")
    parser.add_argument("--claim", type=Claim | None, help="The published number that the recipe is about.")
    parser.add_function_arguments(run, skip={"out"})
    parser.add_argument("--out", type=str | None, help="Folder of the run; runs/NAME-seedSEED by default.")
    if defaults:
        parser.set_defaults(name=defaults.stem)
    return parser


def find(recipe: str) -> Path:
    """The file of a recipe, given by its name in the package or by its path.

    Raises:
        ValueError: where there is none.
    """
    known = discover.recipes()
    path = known.get(recipe, Path(recipe))
    if not path.is_file():
        raise ValueError(f"expected a recipe's name or a YAML file, got {recipe!r}; known are {', '.join(known)}")
    return path


def parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """The resolved recipe.

    Raises:
        ValueError: where an option is unknown or has a value of the wrong type.
    """
    try:
        config = parser.parse_args(arguments)
    except ArgumentError as error:
        raise ValueError(" ".join(str(error).split())) from error
    name_data_root(config.data_root)
    return config


def dump(parser: ArgumentParser, config: Namespace) -> str:
    """The resolved recipe as YAML, without what belongs to this machine."""
    kept = config.clone()
    for name in NOT_OF_THE_RUN:
        kept.pop(name, None)
    return parser.dump(kept, skip_unset=False, skip_validation=True)  # null may be another value than the default


class Rebuilt(NamedTuple):
    """A finished run: the learner in evaluation mode, what it is evaluated on and by, the facts of its weights."""

    learner: Learner
    tasks: EpisodeSampler
    objective: MakeObjective
    weights: dict[str, str]


def rebuild(parser: ArgumentParser, config: Namespace, weights: Path) -> Rebuilt:
    """What a recipe and the weights of its run give.

    Raises:
        ValueError: where the weights are damaged, or not those of the recipe's learner.
    """
    learner, evaluation, objective, _ = build(parser, config)
    facts_of_weights = load_weights(learner, weights)
    return Rebuilt(learner.eval(), evaluation, objective, facts_of_weights)


def build(parser: ArgumentParser, config: Namespace) -> Rebuilt:
    """The same before its training, with the first weights."""
    made = parser.instantiate(config)
    evaluation = made.evaluation or made.tasks
    spec = made.tasks.spec.union(evaluation.spec)
    return Rebuilt(made.learner(spec, likelihood_for(spec).n_params), evaluation, made.objective or QueryLoss, {})


def protocol(config: Namespace, learner: Learner) -> dict[str, Any]:
    """How a result of the recipe comes about: the test tasks, and what of the learner matters for comparing."""
    return (config.evaluation or config.tasks).as_dict() | normalisation(learner)


def load_run(folder: str | Path) -> tuple[Learner, EpisodeSampler]:
    """The learner of a finished run with its best weights, in evaluation mode, and its evaluation sampler.

    Raises:
        ValueError: where the folder holds no run, or its files are damaged.
    """
    parser = make_parser(find_run(folder))
    rebuilt = rebuild(parser, parse(parser, []), Path(folder) / "best.safetensors")
    return rebuilt.learner, rebuilt.tasks


def find_run(folder: str | Path) -> Path:
    """The resolved recipe in the folder of a run.

    Raises:
        ValueError: where there is none.
    """
    path = Path(folder) / "recipe.yaml"
    if not path.is_file():
        raise ValueError(
            f"expected the folder of a run, with a recipe.yaml in it, got {folder}; `metabox train` makes one"
        )
    return path


def overridden(parser: ArgumentParser, config: Namespace, folder: Path) -> list[str]:
    """The lines in which a recipe differs from that of the run in the folder, as `diff` shows them."""
    kept = find_run(folder).read_text(encoding="utf-8").splitlines()
    differ = difflib.unified_diff(kept, dump(parser, config).splitlines(), n=0, lineterm="")
    return [line for line in differ if not line.startswith(("---", "+++", "@@"))]


def evaluate_run(
    parser: ArgumentParser, config: Namespace, folder: Path, *, split: Split, n_tasks: int, seed: int
) -> tuple[Scores, dict[str, Any]]:
    """Scores of a run's best weights, and the whole result with everything needed to repeat it."""
    learner, tasks, objective, facts_of_weights = rebuild(parser, config, folder / "best.safetensors")
    scores = evaluate(learner, tasks, split=split, n_tasks=n_tasks, seed=seed, objective=objective)
    renamed = None
    if tasks.spec.target == "class" and not tasks.spec.tasks:  # named tasks have classes of their own
        renamed = memorisation(learner, tasks, split=split, n_tasks=min(n_tasks, 100), seed=seed)
    result = {
        "name": config.name,
        "seed": config.seed,
        "protocol": protocol(config, learner),
        "overridden": overridden(parser, config, folder),
        "summary": scores.summary(),
        "memorisation": renamed,
        "learner": learner.describe(tasks.sample(0, min(n_tasks, 50), split=split, seed=seed)),
        "claim": config.claim and config.claim.as_dict(),
        "data": tasks.fingerprint(),
        "weights": facts_of_weights,
        "trained_on": read_json(folder / "environment.json"),
        "evaluated_on": facts(),
        "tasks": scores.tasks,
        "per_task": {
            name: [None if math.isnan(value) else value for value in values] for name, values in scores.per_task.items()
        },
    }
    return scores, result
