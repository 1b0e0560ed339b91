"""`metabox transfer`: what the tasks of a recipe gain from each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metabox import discover


def transfer(arguments: list[str], description: str) -> None:
    """Train the groups of a recipe's tasks, and print their gains. Hooks and `select` of the recipe are not used."""
    with discover.without_collection():
        from metabox import recipe as recipes
        from metabox.multitask.transfer_table import transfer_table

        if not arguments or (arguments[0].startswith("-") and not {"-h", "--help"} & set(arguments)):
            raise ValueError("expected a recipe, got none: metabox transfer RECIPE; `metabox list` names the recipes")
        path = None if arguments[0].startswith("-") else recipes.find(arguments[0])
        parser = recipes.make_parser(path, prog="metabox transfer RECIPE", description=description)
        parser.add_argument(
            "--metric", default="squared_error", help='The score: "accuracy", or of each task, "a=accuracy,b=nll".'
        )
        parser.add_argument("--pairs", default="", help='"a+b,a+c"; by default all pairs of at most 6 tasks.')
        parser.add_argument("--seeds", type=int, default=3, help="Runs of each group, with the seeds 0, 1, ...")
        config = recipes.parse(parser, arguments if path is None else arguments[1:])
    metric, pairs, seeds = config.pop("metric"), config.pop("pairs"), config.pop("seeds")
    if given := [name for name in ("weighting", "target") if config.get(name)]:
        raise ValueError(f"expected a recipe without weighting and target, got {' and '.join(given)}; leave them out")
    made = parser.instantiate(config)
    found = transfer_table(
        made.tasks,
        made.learner,
        made.outer,
        metric=_by_task(metric),
        pairs=[_pair(word) for word in pairs.split(",")] if pairs else None,
        seeds=tuple(range(seeds)),
        evaluation=made.evaluation,
        objective=made.objective,
        scale=made.scale,
        out=Path(config.out or f"runs/{config.name}-transfer"),
    )
    print(f"\n{found.markdown()}")


def _by_task(words: str) -> str | dict[str, str]:
    if "=" not in words:
        return words
    parts: list[Any] = [word.partition("=")[::2] for word in words.split(",")]
    return dict(parts)


def _pair(word: str) -> tuple[str, str]:
    one, plus, other = word.partition("+")
    if not plus:
        raise ValueError(f'expected pairs as "a+b,a+c", got {word!r}')
    return one, other
