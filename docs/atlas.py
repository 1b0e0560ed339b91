"""The reproduction atlas: what was published for each learner, what others got, what we got, and why that differs.

Claims are read from the recipes, our numbers from the results that the manifest lists, so neither is typed into a page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from results import columns_of, manifest, older, show

from metabox import discover, gate
from metabox.reports.claims import about
from metabox.reports.metrics import scale


@dataclass
class Entry:
    """A recipe: its learner, claim and length, and the rows of results that were made with it."""

    name: str
    learner: str
    claim: dict[str, Any] | None
    outer: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def claims_the_same(self, other: Entry) -> bool:
        keys = ("metric", "value")
        mine, theirs = (self.claim or {}), (other.claim or {})
        return bool(mine) and self.learner == other.learner and all(mine[key] == theirs.get(key) for key in keys)


@cache
def contents() -> dict[str, dict[str, Any]]:
    """The options of each recipe of the package; never changed."""
    found: dict[str, dict[str, Any]] = {}
    for name, path in discover.recipes().items():
        for file in gate.layers(path):
            found[name] = joined(found.get(name, {}), gate.read(str(file)))
    return found


def entries(folder: Path) -> list[Entry]:
    """All recipes of the package, with the rows of the results in `folder` that name them."""
    found = []
    for name, content in contents().items():
        learner = content["learner"]
        learner = learner if isinstance(learner, str) else learner["class_path"]
        found.append(Entry(name, learner.rpartition(".")[2], content.get("claim"), content.get("outer", {})))
    by_name = {entry.name: entry for entry in found}
    state, old = manifest(folder / "manifest.json"), older(folder / "manifest.json")
    for file in state["files"]:
        for row in recipe_rows(json.loads((folder / file).read_text(encoding="utf-8"))):
            if row["recipe"] in by_name:
                by_name[row["recipe"]].rows.append(row | {"older": file in old})
    return found


def joined(base: Any, other: Any) -> Any:
    """The options of both files; the second one's win."""
    if not (isinstance(base, dict) and isinstance(other, dict)):
        return other
    return base | {name: joined(base.get(name), value) for name, value in other.items()}


def recipe_rows(content: object) -> Iterator[dict[str, Any]]:
    """The objects in a result that are a training of a recipe with a score; a gap may stand beside the training."""
    if isinstance(content, list):
        for part in content:
            yield from recipe_rows(part)
    elif isinstance(content, dict):
        row, gap = content, content.get("gap")
        if isinstance(content.get("run"), dict) and isinstance(gap, dict) and "mean" in gap:
            row = content["run"] | {"gap_to_oracle": gap["mean"]}
        if {"recipe", "training_seconds"} <= row.keys() and any(score in row for score in SCORES):
            yield row
        for part in content.values():
            yield from recipe_rows(part)


SCORES = {"accuracy_percent": (1, " %"), "accuracy": (100, " %"), "gap_to_oracle": (1, " nats above the optimum")}
"""What a row may hold, and how it is printed."""


def published(claim: dict[str, Any] | None) -> str:
    if claim is None:
        return "none claimed"
    unit = scale(claim["metric"])[1] or "nats"
    interval = f" ± {claim['interval']:g}" if claim.get("interval") else ""
    metric = "" if claim["metric"] == "accuracy" else f" {claim['metric'].replace('_', ' ')}"
    checked = "" if claim.get("verified") else " (not verified)"
    return show(f"{claim['value']:g}{interval} {unit}{metric}{checked}, {claim['source']}")


def ours(rows: list[dict[str, Any]]) -> str:
    """The seeds of one length of training."""
    if not rows:
        return "not measured"
    row, claim = rows[0], rows[0].get("claim")
    if claim:
        unit = scale(claim["metric"])[1] or "nats"
        short = f", short by {claim['short_by']:.2f}" if claim["short_by"] else ", reached"
        number = f"{claim['measured']:.2f} {unit}{short}"
    else:
        score = next(score for score in SCORES if score in row)
        times, unit = SCORES[score]
        mean = times * sum(row[score] for row in rows) / len(rows)
        interval = f" ± {row['interval_95_percent']:.2f}" if "interval_95_percent" in row and len(rows) == 1 else ""
        number = f"{mean:.4f}{unit}" if score == "gap_to_oracle" else f"{mean:.2f}{interval}{unit}"
        number += f", the mean of {len(rows)} seeds" if len(rows) > 1 else ""
    return number + (" (of an older version)" if row["older"] else "")


def why(entry: Entry, rows: list[dict[str, Any]], full: Entry | None) -> str:
    """How long was trained, and how long the recipe with the published sizes would train."""
    wanted, tasks = (full or entry).outer.get("steps"), (full or entry).outer.get("n_tasks")
    length = f"{wanted:,} steps" if wanted else "the default number of steps"
    length += f" of {tasks} task{'s' * (tasks > 1)}" if tasks else ""
    if not rows:
        return f"{length} have not been run"
    steps, minutes = rows[0].get("steps"), max(row["training_seconds"] for row in rows) / 60
    had = (f"{steps:,} steps in " if steps else "") + f"{minutes:.1f} min"
    if full is not None and full is not entry:
        return f"{had}; `{full.name}` has {length}"
    return had if steps in (None, wanted) else f"{had}, of {length}"


def best(entry: Entry) -> list[dict[str, Any]]:
    """The seeds of the longest training that was measured."""
    by_steps: dict[Any, list[dict[str, Any]]] = {}
    for row in entry.rows:
        by_steps.setdefault(row.get("steps"), []).append(row)
    return max(by_steps.values(), key=seconds, default=[])


def seconds(rows: list[dict[str, Any]]) -> float:
    return max((float(row["training_seconds"]) for row in rows), default=0.0)


def others_of(entry: Entry, known: list[Entry]) -> list[str]:
    """What others got, in the claims of all recipes of this learner with this published number."""
    twins = [other for other in known if other is entry or other.claims_the_same(entry)]
    return list(dict.fromkeys(text for twin in twins for text in (twin.claim or {}).get("others", ())))


def headline(mine: list[Entry]) -> Entry | None:
    """The recipe of a learner's line: one that was measured and has a claim, then a claim, then a measurement.

    Among equals, one that others have tried, then the one that was measured most often.
    """

    def rank(entry: Entry) -> tuple[Any, ...]:
        measured, claimed = bool(entry.rows), bool(entry.claim)
        return measured and claimed, claimed, measured, bool(others_of(entry, mine)), len(entry.rows)

    return max(mine, key=rank, default=None)


def atlas(folder: Path) -> str:
    """One line for each learner of the package, as a Markdown table."""
    known = entries(folder)
    lines = [columns_of(("learner", "recipe", "published", "others got", "ours", "why")), columns_of(["---"] * 6)]
    for learner in discover.subclasses("Learner"):
        mine = [entry for entry in known if entry.learner == learner.name]
        entry = headline(mine)
        if entry is None:
            lines.append(columns_of((learner.name, "", "", "", "no recipe", "")))
            continue
        twins = [other for other in mine if other.claims_the_same(entry)]
        full = max(twins, key=lambda twin: int(twin.outer.get("steps", 0)), default=None)
        rows = best(entry)
        others = "; ".join(map(show, others_of(entry, mine)))
        cells = (published(entry.claim), others, ours(rows), why(entry, rows, full))
        lines.append(columns_of((learner.name, f"`{entry.name}`", *cells)))
    return "\n".join(lines)


def claims(folder: Path) -> str:
    """One line for each recipe that has a claim."""
    known = entries(folder)
    lines = [columns_of(("recipe", "published", "others got", "ours")), columns_of(["---"] * 4)]
    for entry in known:
        if entry.claim:
            others = "; ".join(map(show, others_of(entry, known)))
            lines.append(columns_of((f"`{entry.name}`", published(entry.claim), others, ours(best(entry)))))
    return "\n".join(lines)


def differences(folder: Path) -> str:
    """What each recipe with a claim says of itself: sizes, training, and what differs from the paper."""
    claiming = [entry.name for entry in entries(folder) if entry.claim]
    return "\n".join(f"- `{name}`: {show(about(name))}" for name in claiming)
