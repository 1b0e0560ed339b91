"""The table of claims: published values, our measurements, and the commands that repeat them."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metabox import discover
from metabox.evaluation import interval_of, mean_of
from metabox.recipe import dump, make_parser, parse
from metabox.reports.collect import Run, flat, settings
from metabox.reports.compare import headline
from metabox.reports.metrics import more_is_better, scale, values

SOURCES = ("source", "value", "interval", "metric", "protocol", "verified", "others")


def claim_table(runs: list[Run], plugins: Sequence[str] = ()) -> dict[str, Any]:
    """The runs of one claim (or of one protocol, if there is none): a row for each recipe, with all its seeds."""
    rows: dict[str, list[Run]] = {}
    for run in runs:
        rows.setdefault(run.configuration, []).append(run)
    claim = runs[0].claim
    return {
        "claim": claim and {name: claim.get(name) for name in SOURCES},
        "protocol": runs[0].protocol,
        "rows": [_row(sorted(row, key=lambda run: run.seed), plugins) for row in rows.values()],
    }


def _row(runs: list[Run], plugins: Sequence[str]) -> dict[str, Any]:
    first = runs[0]
    metric = str(first.claim["metric"]) if first.claim else headline(first)
    seeds = [_seed(run, metric) for run in runs]
    means = [seed["mean"] for seed in seeds if seed["mean"] is not None]
    mean = math.fsum(means) / len(means) if means else None
    command, differ = repeat(first, plugins)
    return {
        "recipe": first.name,
        "metric": metric,
        "unit": scale(metric)[1],
        "seeds": seeds,
        "mean": mean,
        "spread": _deviation(means),
        "verdict": _verdict(first.claim, metric, mean, seeds),
        "about_the_recipe": about(first.name),
        "differs_from_the_recipe": differ,
        "steps": first.recipe["outer"].get("steps"),
        "tasks_per_step": first.recipe["outer"].get("n_tasks"),
        "command": command,
        "text": first.text,
    }


def _seed(run: Run, metric: str) -> dict[str, Any]:
    """One training run: its score with the interval over tasks, and how it was made."""
    times, _ = scale(metric)
    measured = values(run.scores, metric)
    interval = math.inf if measured is None else times * interval_of(measured)
    made = run.result["trained_on"]
    last = run.curve[-1] if run.curve else {}
    return {
        "seed": run.seed,
        "folder": run.folder.name,
        "mean": None if measured is None else times * mean_of(measured),
        "interval_95": interval if math.isfinite(interval) else None,
        "steps": last.get("step"),
        "best_step": run.result["weights"].get("step"),
        "training_seconds": last.get("seconds"),
        "hardware": _hardware(made),
        "versions": ", ".join(f"{name} {made[name]}" for name in ("metabox", "torch", "python") if made.get(name)),
        "commit": made.get("git_commit"),
        "uncommitted_changes": made.get("git_dirty"),
        "data": run.result["data"],
        "changed_files": run.changed,
    }


def _hardware(made: dict[str, Any]) -> str:
    threads = f"{made['threads']} of {made['cores']} cores" if {"threads", "cores"} <= made.keys() else None
    return ", ".join(
        str(part) for part in (made.get("device"), made.get("cpu"), threads, made.get("precision")) if part
    )


def _deviation(values: list[float]) -> float | None:
    """The standard deviation; None for fewer than two values."""
    if len(values) < 2:
        return None
    return statistics.stdev(values)


def _verdict(claim: dict[str, Any] | None, metric: str, mean: float | None, seeds: list[dict[str, Any]]) -> str:
    """Whether the mean over seeds meets the published value.

    A difference within the root of the sum of squares of the two intervals is attributed to the draw of test tasks. Our
    interval is the widest among the seeds: all have the same test tasks, so more seeds do not narrow it.
    """
    if claim is None:
        return "no claim"
    if any(seed["changed_files"] for seed in seeds):
        return "not judged: files were changed after the run"
    intervals = [seed["interval_95"] for seed in seeds]
    if mean is None or None in intervals:
        return f"not judged: {metric} has no interval here"
    difference = mean - claim["value"]
    if abs(difference) <= math.hypot(claim.get("interval") or 0, max(intervals)):
        return "reproduced"
    better = (difference > 0) == more_is_better(metric)
    return f"{'above' if better else 'short'} by {abs(difference):.2f}"


def about(name: str) -> str:
    """The comment at the top of the package's recipe of that name, which says how it differs from the paper."""
    path = discover.recipes().get(name)
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    comment = lines[: next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    first, *more = [line.lstrip("# ") for line in comment] or [""]
    return " ".join([f"{first}." if more else first, *more])


def repeat(run: Run, plugins: Sequence[str] = ()) -> tuple[str, list[str]]:
    """The command that trains and evaluates a run again, and how its recipe differs from the package's.

    The command names a recipe of the package with the changed options, if that resolves to exactly the same recipe;
    else the recipe in the run folder, which is also in the report.

    Args:
        run: of any recipe.
        plugins: command-line arguments that load the user's own modules.
    """
    path, allow = discover.recipes().get(run.name), [_from_here(word) for word in plugins]
    if path is not None:
        parser = make_parser(path)
        theirs, ours = flat(settings(parse(parser, []))), flat(run.recipe)
        changed = {name: value for name, value in ours.items() if theirs.get(name) != value}
        options = [word for name, value in changed.items() for word in (f"--{name}", str(value))]
        try:
            same = dump(parser, parse(parser, options)) == run.text
        except ValueError:
            same = False
        if same:
            changed.pop("seed", None)
            differ = [f"{name} {value} instead of {theirs.get(name)}" for name, value in changed.items()]
            return shlex.join(["metabox", "train", run.name, *options, *allow]), differ
    kept = _from_here(str(run.folder / "recipe.yaml"))
    return shlex.join(["metabox", "train", kept, "--seed", str(run.seed), *allow]), []


def _from_here(word: str) -> str:
    """A path below the working directory relative to it, because a report should not show private paths."""
    path = Path(word)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else word
