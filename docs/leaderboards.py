"""The leaderboards page: all committed accuracies of one exam in one table, and error against time of training.

A row belongs to an exam if it has `accuracy_percent` on test classes, and its `task`, its recipe or its file says which
data set, ways and shots: a new result appears without a change here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

sys.path.insert(0, str(Path(__file__).parent))

from results import columns_of, manifest, older, result

from metabox.reports import figures

EXAM = re.compile(r"^([a-z]+)-(\d+w\d+s)(?:-|$)")  # of a recipe or a file
TASK = re.compile(r"^(.+) (\d+w\d+s)$")
SETS = {"omniglot": "Omniglot", "cifarfs": "CIFAR-FS", "glyphs": "Glyphs"}


class Entry(NamedTuple):
    """One line of a leaderboard."""

    exam: str
    who: str
    percent: float
    interval: float
    seconds: float | None
    steps: int | None
    data: str
    file: str
    age: str


def page(folder: Path) -> str:
    """A section for each exam that two or more entries share, as Markdown."""
    exams: dict[str, list[Entry]] = {}
    for entry in entries(folder):
        exams.setdefault(entry.exam, []).append(entry)
    sections = [section(exam, found) for exam, found in sorted(exams.items()) if len(found) > 1]
    return "\n\n".join(sections) or "Not measured yet."


def entries(folder: Path) -> Iterator[Entry]:
    """The rows of all files of the manifest that say their exam."""
    path = folder / "manifest.json"
    old = older(path)
    for name in manifest(path)["files"]:
        content = result(name, path)
        own = content.get("run", {}).get("recipe")  # of a model that comes with the package
        generated = content.get("run", {}).get("real_images_in_training") == 0
        for row in scored(content):
            named = row.get("recipe") or row.get("learner") or own or Path(name).stem
            named += f", {row['views']} views" if row.get("views", 1) > 1 else ""
            exam = exam_of(row.get("task"), row.get("recipe") or Path(name).stem)
            if exam is None or row.get("split", "test") != "test":
                continue
            outside = row.get("outside_data")
            data = f"with {outside}" if outside else "generated" if generated else "its training classes"
            age = "older" if name in old else "current"
            yield Entry(
                *(exam, named, row["accuracy_percent"], row["interval_95_percent"], row.get("training_seconds")),
                *(row.get("steps"), data, name, age),
            )


def scored(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows with an accuracy in the tables of an object; a row in the table of a row has that one's facts too."""
    for table in (value for value in content.values() if isinstance(value, list)):
        for row in (row for row in table if isinstance(row, dict)):
            if "accuracy_percent" in row:
                yield row
            else:
                yield from (row | inner for inner in scored(row))


def exam_of(task: str | None, recipe: str) -> str | None:
    """The exam, as "Omniglot 5w1s", by the task of a row or else by its recipe."""
    if task is not None:
        return task if TASK.match(task) else None
    found = EXAM.match(recipe)
    return f"{SETS.get(found[1], found[1])} {found[2]}" if found else None


def section(exam: str, found: list[Entry]) -> str:
    """The table of an exam, best first, and the figure if three or more entries have a time."""
    lines = [
        f"## {exam}",
        "",
        "| learner | accuracy % | minutes of training | steps | trained on | version | file |",
        "| --- | ---: | ---: | ---: | --- | --- | --- |",
    ]
    for entry in sorted(found, key=lambda entry: -entry.percent):
        minutes = "" if entry.seconds is None else f"{entry.seconds / 60:.1f}"
        steps = "" if entry.steps is None else f"{entry.steps:,}"
        accuracy = f"{entry.percent:.2f} ± {entry.interval:.2f}"
        cells = (f"`{entry.who}`", accuracy, minutes, steps, entry.data, entry.age, f"`{entry.file}`")
        lines.append(columns_of(cells))
    timed = [entry for entry in found if entry.seconds is not None]
    if len(timed) > 2:
        lines += ["", "```{raw} html", against_time(exam, timed), "```"]
    return "\n".join(lines)


@matplotlib.rc_context(figures.STYLE)
def against_time(exam: str, timed: list[Entry]) -> str:
    """Error against minutes of training, as an SVG; several budgets of one learner are joined."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.add_subplot(xlabel="minutes of training", ylabel="error, %", xscale="log", yscale="log")
    for axis in axes.xaxis, axes.yaxis:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    says = []
    for number, who in enumerate(dict.fromkeys(entry.who for entry in timed)):
        own = sorted((entry for entry in timed if entry.who == who), key=lambda entry: entry.seconds or 0)
        minutes, error = [(entry.seconds or 0) / 60 for entry in own], [100 - entry.percent for entry in own]
        axes.errorbar(
            *(minutes, error, [entry.interval for entry in own]),
            color=figures.SERIES[number % len(figures.SERIES)],
            marker="o",
            markersize=4,
            capsize=3,
            linestyle=figures.DASHES[number // len(figures.SERIES) % len(figures.DASHES)],
            label=figures.plain(who),
        )
        says.append(f"{who}: " + ", ".join(f"{y:.2f} % after {x:.1f}" for x, y in zip(minutes, error, strict=True)))
    figure.legend(loc="outside right upper")
    return figures.draw(figure, f"{exam}, error against minutes of training", "; ".join(says)).svg
