"""Reading run folders, and grouping the runs that can be compared in one table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from metabox.evaluation import Scores
from metabox.files import read_json
from metabox.recipe import PATH_OPTIONS, build, dump, find, find_run, make_parser, parse, protocol
from metabox.reports import manifest

NEEDED = {
    "seed": int,
    "protocol": dict,
    "summary": dict,
    "per_task": dict,
    "data": str,
    "weights": dict,
    "trained_on": dict,
    "evaluated_on": dict,
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run.

    folder: of the run
    text, recipe: its resolved recipe, as YAML and as a dictionary
    result: of the recipe's own evaluation
    others: results of other lists of tasks or protocols
    curve: the lines of metrics.jsonl
    changed: files that have changed since they were recorded; None if nothing was recorded
    """

    folder: Path
    text: str
    recipe: dict[str, Any]
    result: dict[str, Any]
    others: list[dict[str, Any]]
    curve: list[dict[str, Any]]
    changed: list[str] | None

    @property
    def name(self) -> str:
        return str(self.recipe["name"])

    @property
    def seed(self) -> int:
        return int(self.recipe["seed"])

    @property
    def label(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def claim(self) -> dict[str, Any] | None:
        return self.recipe.get("claim")

    @property
    def configuration(self) -> str:
        """A string that is equal for runs that differ only in the seed."""
        return json.dumps(self.recipe | {"seed": None}, sort_keys=True)

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """What two results must have in common to be compared, as flat names and values."""
        return protocol_of(self.result)

    @cached_property
    def scores(self) -> Scores:
        return scores_of(self.result)


def read_run(folder: str | Path) -> Run:
    """
    Raises:
        ValueError: if the folder holds no finished run, or one of its files is invalid.
    """
    folder = Path(folder)
    parser = make_parser(find_run(folder))
    config = parse(parser, [])  # every name and type in it is checked here
    recipe = settings(config)
    results = [_read_result(file) for file in sorted((folder / "results").glob("*.json"))]
    own = [result for result in results if _is_own(result, recipe)]
    if len(own) != 1:
        raise ValueError(
            f"expected one result of the recipe's own evaluation in {folder / 'results'}, got {len(own)} among "
            f"{len(results)}; `metabox evaluate {folder}` makes it"
        )
    return Run(
        folder=folder,
        text=dump(parser, config),
        recipe=recipe,
        result=own[0],
        others=[result for result in results if result is not own[0]],
        curve=_read_curve(folder / "metrics.jsonl"),
        changed=manifest.changes(folder),
    )


def read_runs(folders: Sequence[str | Path]) -> list[list[Run]]:
    """The runs grouped into tables: those of one claim, or, if they have none, of one protocol.

    Raises:
        ValueError: if a run occurs twice, or runs of one claim have different protocols; the message says how they
            differ.
    """
    tables: dict[str, list[Run]] = {}
    seen: dict[tuple[str, int], Run] = {}
    for run in map(read_run, folders):
        twin = seen.setdefault((run.configuration, run.seed), run)
        if twin is not run:
            raise ValueError(
                f"expected every run once, got {run.label} in {twin.folder} and {run.folder}: a seed that is "
                "counted twice would make the spread over seeds too small; name one of them"
            )
        table = tables.setdefault(json.dumps(run.claim or run.protocol, sort_keys=True), [])
        table.append(run)
        _check_one_protocol(table[0].protocol, run.protocol, f"{table[0].folder} and {run.folder}")
    if not tables:
        raise ValueError("expected the folder of at least one run, got none; `metabox train` makes one")
    return list(tables.values())


def check_recipes(recipes: Sequence[str], options: list[str]) -> None:
    """Check before training that the runs of these recipes can be in one report.

    Raises:
        ValueError: if a recipe or its data are missing, or recipes of one claim have different protocols.
    """
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in recipes:
        parser = make_parser(find(name))
        config = parse(parser, options)
        learner, tasks, _, _ = build(parser, config)
        if config.claim:
            plan = {
                "protocol": protocol(config, learner),
                "summary": {"split": "test", "seed": 0, "n_tasks": config.n_test},
                "data": tasks.fingerprint(),
            }
            claim = json.dumps(config.claim.as_dict(), sort_keys=True)
            other, known = first.setdefault(claim, (name, protocol_of(plan)))
            _check_one_protocol(known, protocol_of(plan), f"{other} and {name}")


def _check_one_protocol(one: dict[str, Any], other: dict[str, Any], where: str) -> None:
    if differ := differences(one, other):
        raise ValueError(
            f"expected the runs of one claim to have one protocol, got {'; '.join(differ)} in {where}; their "
            "accuracies answer different questions, so report them apart"
        )


def settings(config: Namespace) -> dict[str, Any]:
    """A resolved recipe as plain values, without the paths on this machine."""
    plain = {name: value for name, value in config.as_dict().items() if name not in PATH_OPTIONS and name[0] != "_"}
    read: dict[str, Any] = json.loads(json.dumps(plain, default=str))
    return read


def protocol_of(result: dict[str, Any]) -> dict[str, Any]:
    summary = result["summary"]
    about = {"split": summary["split"], "list of tasks": summary["seed"], "test tasks": summary["n_tasks"]}
    return flat(result["protocol"]) | about | {"data": result["data"]}


def scores_of(result: dict[str, Any]) -> Scores:
    """The scores of a result, from those of every task (null if it has none); its summary is for readers only."""
    summary, columns = result["summary"], result["per_task"].items()
    per_task = {name: [math.nan if value is None else value for value in column] for name, column in columns}
    pooled = {name: summary[name] for name in ("calibration_error",) if name in summary}
    return Scores(summary["split"], summary["seed"], per_task, result.get("tasks", []), pooled)


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The differences between two flat settings, each as `name: one against other`."""
    names = sorted(one.keys() | other.keys())
    return [f"{name}: {one.get(name)} against {other.get(name)}" for name in names if one.get(name) != other.get(name)]


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names, without null values."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = value
    return found


def _read_result(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = read_json(path)
    good = isinstance(result, dict) and all(isinstance(result.get(name), kind) for name, kind in NEEDED.items())
    good = good and {"split", "seed", "n_tasks"} <= result["summary"].keys()
    sure = next((name for name in ("nll", "loss") if good and name in result["per_task"]), None)
    good = good and sure is not None
    if good:
        columns, n_tasks = result["per_task"].values(), result["summary"]["n_tasks"]
        good = all(isinstance(c, list) and len(c) == n_tasks for c in columns) and all(
            isinstance(value, (int, float, type(None))) for column in columns for value in column
        )
        good = good and None not in result["per_task"][sure] and len(result.get("tasks", [])) in (0, n_tasks)
    overridden = result.get("overridden", []) if good else None
    good = isinstance(overridden, list) and all(isinstance(line, str) for line in overridden)
    if not good:
        raise ValueError(f"expected a result of `metabox evaluate` in {path}, got something else; restore or delete it")
    return result


def _is_own(result: dict[str, Any], recipe: dict[str, Any]) -> bool:
    """Whether a result is the one that `metabox train` wrote: of the recipe itself, its list and number of tasks."""
    asked = flat(recipe.get("evaluation") or recipe["tasks"])
    protocol = flat({name: value for name, value in result["protocol"].items() if name in ("class_path", "init_args")})
    summary = result["summary"]
    listed = (summary["split"], summary["seed"], summary["n_tasks"]) == ("test", 0, recipe["n_test"])
    return listed and not result.get("overridden") and not differences(asked, protocol)


def _read_curve(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise ValueError(f"expected a JSON object in every line of {path}, got another ({error})") from error
    if not all(isinstance(line, dict) and isinstance(line.get("step"), int) for line in lines):
        raise ValueError(f"expected a step in every line of {path}, got a line without; restore the file")
    return lines
