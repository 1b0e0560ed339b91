"""The results page: every number is read from a JSON file in benchmarks/results when the page is built.

A file is one object. Its lists of objects become tables, everything else becomes lines of facts, so a new
benchmark needs no change here.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from manifest import manifest, older, result

Cell = str | int | float | bool | None
QUARTILES = {"median", "q1", "q3"}
IDENTITY = ("recipe", "learner", "method", "model", "seed", "minutes_of_one_core")
"""What names a row."""
HASH = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{32}\b")


def page(folder: Path) -> str:
    """A section for each file of the manifest, as Markdown."""
    path = folder / "manifest.json"
    files, old = manifest(path)["files"], older(path)
    sections = []
    for name, about in files.items():
        age = "rows of an older version of metabox" if name in old else "of the current version of metabox"
        sections.append(section(folder / name, f"`{about['command']}`, {age}."))
    return "\n\n".join(sections) or "No results are committed."


def section(path: Path, how: str = "") -> str:
    """A heading, then the facts and tables of one file.

    Raises:
        ValueError: if the file is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"expected JSON in {path.name}, got something else ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object in {path.name}, got a {type(content).__name__}")
    facts, tables, loose = [], [], {}
    for name, value in content.items():
        if is_table(value):
            tables += [table([flat(row) for row in value]), *nested(value)]
        elif isinstance(value, dict):
            facts.append(line(name, flat(value)))
        elif is_cell(value):
            loose[name] = value
    facts = [line("about", loose)] * bool(loose) + facts
    aside = ["<details><summary>About the measurement</summary>", *facts, "</details>"] if facts else []
    return "\n\n".join([f"## {path.stem.replace('_', ' ')}", *filter(None, [how, *tables, *aside])])


def nested(rows: list[dict[str, Any]]) -> list[str]:
    """The tables in rows, those of one name together; a line begins with what tells its row from the others.

    Left out are tables of floats alone, whose lines nothing tells apart.
    """
    names = dict.fromkeys(name for row in rows for name, value in row.items() if is_table(value) and named(value[0]))
    cells = [flat(row) for row in rows]
    tables = []
    for name in names:
        lines = [
            {key: row[key] for key in IDENTITY if key in row} | flat(inner)
            for row, of in zip(cells, rows, strict=True)
            for inner in of.get(name, ())
        ]
        tables.append(f"{label(name).capitalize()}:\n\n{table(lines)}")
    return tables


def named(row: dict[str, Any]) -> bool:
    return any(isinstance(value, str | int) for value in row.values())


def is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def parts(path: Path) -> str:
    """Each table of a file under its name, with the facts in `NAME_measured_with`."""
    if not path.exists():
        return "Not measured yet."
    content = json.loads(path.read_text(encoding="utf-8"))
    sections = []
    for name, value in content.items():
        if isinstance(value, list):
            facts = content.get(f"{name}_measured_with") or {k: v for k, v in content.items() if isinstance(v, dict)}
            sections += [f"### {name}", line("measured with", flat(facts)), table([flat(row) for row in value])]
    return "\n\n".join(sections)


def one(path: Path, name: str) -> str:
    """The table NAME of a file."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return table([flat(row) for row in content[name]]) if name in content else "Not measured yet."


def chosen(folder: Path, file: str, name: str, columns: str, *where: str) -> str:
    """Some columns of the table NAME, and the rows that pass every condition `column=value|value`.

    Raises:
        ValueError: if no row passes, or none has one of the columns.
    """
    rows = [flat(row) for row in result(f"{file}.json", folder / "manifest.json")[name]]
    for column, _, values in (condition.partition("=") for condition in where):
        order = values.split("|")
        rows = [row for row in rows if show(row.get(column)) in order]
        rows.sort(key=lambda row: order.index(show(row.get(column))))
    wanted = columns.split(",")
    if missing := [column for column in wanted if all(row.get(column) is None for row in rows)]:
        raise ValueError(f"expected rows of {file}.json where {' and '.join(where) or name}, got none with {missing}")
    return table([{column: row.get(column) for column in wanted} for row in rows])


def value(folder: Path, file: str, *steps: str) -> str:
    """One number of a file: each step is a key, or `key=value` for the first row that has it.

    Raises:
        ValueError: if a step leads nowhere, or the last to no number.
    """
    found: Any = result(f"{file}.json", folder / "manifest.json")
    for step in steps:
        key, condition, wanted = step.partition("=")
        if condition:
            rows = found if isinstance(found, list) else []
            found = next((row for row in rows if show(row.get(key)) == wanted), None)
        else:
            found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ValueError(f"expected a number at {' '.join(steps)} of {file}.json, got {found!r}")
    return show(found)


def exercise(folder: Path) -> str:
    """The table and the figure of `benchmarks/cs330.py`; without its result, how to get it."""
    columns = ("steps", "accuracy_percent", "interval_95_percent", "chance_percent")

    def shown(row: dict[str, Any]) -> dict[str, Any]:
        return {"task": f"{row['ways']}-way {row['shots']}-shot", **{name: row[name] for name in columns}}

    alt = "Validation accuracy against training steps, one curve for each number of ways and shots"
    found = drawn(folder, "cs330.json", shown, "../_static/lecture-exercise.svg", alt)
    return found or "Not measured yet: `python benchmarks/cs330.py` trains all sizes."


def streams(folder: Path) -> str:
    """The table and the figure of `benchmarks/omniglot_streams.py`; without its result, how to get it."""
    columns = ("recipe", "seed", "steps", "instance_1", "instance_2", "instance_5", "instance_10")

    def shown(row: dict[str, Any]) -> dict[str, Any]:
        return {name: row.get(name) for name in columns} | {"published_2": (row["claim"] or {}).get("published")}

    alt = "Accuracy by instance of a class, and validation accuracy at the second instance against training batches"
    found = drawn(folder, "omniglot-streams.json", shown, "_static/omniglot-streams.svg", alt)
    return found or "Not measured yet: `python benchmarks/omniglot_streams.py` trains all recipes."


def sequences(folder: Path, command: str) -> str:
    """The table of `benchmarks/sequences.py COMMAND`; without its result, how to get it."""

    def shown(row: dict[str, Any]) -> dict[str, Any]:
        at = {f"{of['pairs']} pairs": of["wrong_bits_percent"] for of in row.get("lengths", ())}
        for of in row.get("windows", ()):
            first, last = of["steps"]
            at[f"steps {first} to {last}"] = f"{show(of['nats_above_bayes'])} ± {show(of['interval_95'])}"
        at |= {name.removesuffix("_percent"): cell for name, cell in row.items() if name.startswith("instance_")}
        sizes = [of["numbers_in_phi"] for of in (row, *row.get("lengths", ())) if "numbers_in_phi" in of]
        return {"learner": row["learner"], "steps": row["steps"], **at, "numbers_in_phi": sizes[-1]}

    found = drawn(folder, f"sequences-{command}.json", shown)
    return found or f"Not measured yet: `python benchmarks/sequences.py {command}` trains all sequence learners."


def drawn(
    folder: Path, file: str, shown: Callable[[dict[str, Any]], dict[str, Any]], image: str = "", alt: str = ""
) -> str:
    """An image that a script draws, and `shown` of each row of its result; nothing if there is no result."""
    about = manifest(folder / "manifest.json")["files"].get(file)
    if about is None:
        return ""
    content = result(file, folder / "manifest.json")
    facts = content["environment"]
    with_ = {name: facts[name] for name in ("cpu", "threads", "torch")} | {"commit": facts["git_commit"][:8]}
    figure = [f"```{{image}} {image}", f":alt: {alt}", "```", ""] if image else []
    rows = [table([shown(row) for row in content["rows"]]), "", line("measured with", with_)]
    return "\n".join([*figure, *rows, "", f"Repeat: `{about['command']}`."])


def is_cell(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def flat(row: dict[str, Any]) -> dict[str, Cell]:
    """The scalars of an object and of the objects in it; a median and its quartiles are one cell."""
    cells: dict[str, Cell] = {}
    for name, value in row.items():
        if isinstance(value, dict) and set(value) == QUARTILES:
            cells[name] = f"{show(value['median'])} [{show(value['q1'])}, {show(value['q3'])}]"
        elif isinstance(value, dict):
            cells |= {f"{name} {inner}": cell for inner, cell in value.items() if is_cell(cell)}
        elif is_cell(value):
            cells[name] = value
    return cells


def table(rows: list[dict[str, Cell]]) -> str:
    """The rows as a table; texts that are the same in every row are given above it."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns = [name for name in columns if any(row.get(name) is not None for row in rows)]
    shared = [
        name
        for name in columns
        if len(rows) > 1 and isinstance(rows[0].get(name), str) and len({row.get(name) for row in rows}) == 1
    ]
    shown = [name for name in columns if name not in shared]
    lines = [line("in every row", {name: rows[0][name] for name in shared}), ""] if shared else []
    lines += [columns_of(label(name) for name in shown), columns_of("---" for _ in shown)]
    return "\n".join(lines + [columns_of(show(row.get(name)) for name in shown) for row in rows])


def columns_of(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def line(name: str, cells: dict[str, Cell]) -> str:
    facts = "; ".join(f"{label(key)} {show(value)}" for key, value in cells.items() if value is not None)
    return f"{label(name).capitalize()}: {facts}." if facts else ""


def label(name: str) -> str:
    return show(name.replace("_", " "))


def show(value: Cell) -> str:
    """A cell as text; numbers have four digits, hashes of git eight, and the file has all of them."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if math.isfinite(value) and abs(value) >= 1000 else f"{value:.4g}"
    text = HASH.sub(r"\1", " ".join(value.split()))
    for plain, safe in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`")):
        text = text.replace(plain, safe)
    return text
